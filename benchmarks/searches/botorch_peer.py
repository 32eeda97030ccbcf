"""BoTorch as a searcher: qLogNEHVI over candidates that an evolutionary local search climbs to.

Letters: n architectures, d genes, m objectives, p candidates, f features of the processes.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.models import ModelList, SingleTaskGP
from botorch.models.deterministic import GenericDeterministicModel
from botorch.models.transforms.input import ChainedInputTransform, FilterFeatures, Normalize
from botorch.optim import optimize_acqf_discrete
from botorch.sampling.get_sampler import get_sampler
from gpytorch.mlls import ExactMarginalLogLikelihood

from search.archive import Archive
from search.objective import Evaluator
from search.searchers.gaussian_process import Inputs
from search.searchers.linas import LINAS, spread
from search.searchers.searcher import Stateless
from supernet.arrays import Floats, Genomes, Rng
from supernet.space import SearchSpace

CHILDREN = 8  # of each parent in a round
AT_ONCE = 256  # candidates whose acquisition is computed together


@dataclass(frozen=True)
class Acquisition:
    """What a batch adds to the hypervolume (log of the expectation), and the features it is computed from."""

    gain: qLogNoisyExpectedHypervolumeImprovement  # of (..., q, f + m) features
    features: Callable[[Genomes], torch.Tensor]  # (n, f + m); the last m are costs, 0 where measured

    def each(self, genomes: Genomes) -> Floats:
        """(n,) of batches of one."""
        if not len(genomes):
            return np.empty(0)
        with torch.no_grad():
            parts = [self.gain(part[:, None]) for part in torch.split(self.features(genomes), AT_ONCE)]
        return torch.cat(parts).numpy()


@dataclass
class BoTorch(Stateless):
    """qLogNEHVI (arXiv 2105.08195, 2310.20708), with a `SingleTaskGP` as it comes for what is measured.

    Its first batch is LINAS's, and so are the features: one-hot genes, log MACs, log parameters. Objectives
    that are predicted anyway are taken as they are, and the reference point is the archive's. Candidates are
    the `pool` best of mutated and crossed front members, random networks, and `rounds` of mutating the
    `parents` best; `optimize_acqf_discrete` takes `batch` of them one after the other.
    """

    batch: int = 10
    pool: int = 200
    parents: int = 50
    rounds: int = 3
    draws: int = 64  # of the posterior

    def inform(self, evaluator: Evaluator) -> None:
        """What is asked of architectures: its predicted part may be asked at will."""
        self._evaluator = evaluator

    def ask(self, space: SearchSpace, archive: Archive, rng: Rng) -> Genomes:
        if not len(archive):
            return spread(space, LINAS().first, rng)
        torch.manual_seed(int(rng.integers(2**31)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits that end at their limit of iterations
            acquisition = self._acquisition(space, archive)
            candidates = self._candidates(space, archive, rng, acquisition)
            if not len(candidates):
                return candidates
            choices = acquisition.features(candidates)
            picked, _ = optimize_acqf_discrete(acquisition.gain, min(self.batch, len(choices)), choices)
        rows = (choices[None] == picked[:, None]).all(dim=2).int().argmax(dim=1)
        return candidates[np.unique(rows.numpy())]

    def _acquisition(self, space: SearchSpace, archive: Archive) -> Acquisition:
        objectives, costs = self._evaluator.objectives, archive.costs
        inputs, scale = Inputs.from_known(space, archive.genomes), costs.std(axis=0)

        def features(genomes: Genomes) -> torch.Tensor:
            exact = [
                np.zeros(len(genomes)) if one.measured else one.cost(one.of(genomes).mean)
                for one in objectives
            ]
            return torch.from_numpy(np.hstack([inputs(genomes), np.stack(exact, axis=1) / scale]))

        known = features(archive.genomes)
        width = known.shape[1] - len(objectives)
        models: list[GenericDeterministicModel | SingleTaskGP] = []
        for j, objective in enumerate(objectives):
            if objective.measured is None:
                models.append(GenericDeterministicModel(partial(_benefit, width + j)))
                continue
            values = torch.from_numpy(-costs[:, [j]] / scale[j])  # BoTorch maximises
            genes = FilterFeatures(torch.arange(width))
            inside = ChainedInputTransform(genes=genes, unit=Normalize(width))
            process = SingleTaskGP(known, values, input_transform=inside)
            fit_gpytorch_mll(ExactMarginalLogLikelihood(process.likelihood, process))
            models.append(process)
        worst = (-archive.reference / scale).tolist()
        model = ModelList(*models)
        sampler = get_sampler(model.posterior(known), torch.Size([self.draws]), seed=0)
        gain = qLogNoisyExpectedHypervolumeImprovement(model, worst, known, sampler, prune_baseline=True)
        return Acquisition(gain, features)

    def _candidates(
        self, space: SearchSpace, archive: Archive, rng: Rng, acquisition: Acquisition
    ) -> Genomes:
        """(p, d) the best of all rounds, best first."""
        front = archive.genomes[archive.front()]
        mother, father = front[rng.integers(len(front), size=(2, 2 * self.pool))]
        crossed = space.mutate(space.crossover(mother, father, rng), rng, 0.02)
        drawn = np.concatenate([crossed, space.mutate(mother, rng, 0.05), space.sample(self.pool, rng)])
        best, gains = drawn[:0], np.empty(0)
        for _ in range(1 + self.rounds):
            both = np.concatenate([best, drawn])
            fresh = np.flatnonzero(archive.unseen(both)[len(best) :])
            best = np.concatenate([best, drawn[fresh]])
            gains = np.concatenate([gains, acquisition.each(drawn[fresh])])
            order = np.argsort(-gains, kind="stable")[: self.pool]
            best, gains = best[order], gains[order]
            drawn = space.mutate(np.repeat(best[: self.parents], CHILDREN, axis=0), rng, 0.05)
        return best


def _benefit(column: int, features: torch.Tensor) -> torch.Tensor:
    """(..., 1) a cost among the features with its sign turned: BoTorch maximises."""
    return -features[..., [column]]
