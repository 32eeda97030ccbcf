# Every command sets itself up: .venv is made and filled when it is missing or pyproject.toml has changed.
PYTHON ?= python3
BIN := .venv/bin
# Threads that wait must not spin: timings on a busy machine depend on it.
export OMP_WAIT_POLICY := PASSIVE
ARGS ?=

.PHONY: search rank test score fit adapt measure lookup-table modules train accuracy-data finetune export shrink lint bench clean

search: .venv/.run
	@$(BIN)/python -m scripts.run_search $(ARGS)

rank: .venv/.run
	@$(BIN)/python -m scripts.rank_models $(ARGS)

score: .venv/.run
	@$(BIN)/python -m scripts.score_predictor $(ARGS)

fit: .venv/.run
	@$(BIN)/python -m scripts.fit_predictor $(ARGS)

adapt: .venv/.run
	@$(BIN)/python -m scripts.adapt_device $(ARGS)

measure: .venv/.run
	@$(BIN)/python -m scripts.measure_device $(ARGS)

lookup-table: .venv/.run
	@$(BIN)/python -m scripts.build_lookup_table $(ARGS)

modules: .venv/.run
	@$(BIN)/python -m scripts.fit_modules $(ARGS)

train: .venv/.run
	@$(BIN)/python -m scripts.train_supernet $(ARGS)

accuracy-data: .venv/.run
	@$(BIN)/python -m scripts.build_accuracy_data $(ARGS)

finetune: .venv/.run
	@$(BIN)/python -m scripts.finetune_subnet $(ARGS)

export: .venv/.run
	@$(BIN)/python -m scripts.export_subnet $(ARGS)

shrink: .venv/.run
	@$(BIN)/python -m scripts.shrink_subnet $(ARGS)

test: .venv/.dev
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.dev
	$(BIN)/python -m benchmarks.ofa_search $(ARGS)
	$(BIN)/python -m benchmarks.speed

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/.run: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install -q -e '.[onnx]'
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install -q -e '.[dev]'
	@touch $@ .venv/.run

clean:
	rm -rf .venv
