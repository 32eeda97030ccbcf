"""Artifacts and tidy tables: what is refused and how it is said."""

import csv
import errno
import gzip
import json
import os

import numpy as np
import pytest

from latency.predictors.interface import load
from latency.zoo import catalogue
from supernet.files import artifact, disk, tables
from supernet.surrogates import accuracy


def test_same_content_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        artifact.save(tmp_path / name, "kind", {"x": np.arange(5)}, {"b": 1, "a": [2]})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    arrays, facts = artifact.load(tmp_path / "a.npz", "kind")
    assert arrays["x"].tolist() == [0, 1, 2, 3, 4]
    assert facts["a"] == [2]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_damaged_files_are_named_and_left_alone(tmp_path, content):
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    for load_file in (load, accuracy.load):
        with pytest.raises(ValueError, match=r"broken\.npz is damaged"):
            load_file(path)
    assert path.read_bytes() == content


def test_foreign_files_are_refused(tmp_path):
    np.savez(tmp_path / "foreign.npz", x=np.arange(3))
    with pytest.raises(ValueError, match=r"foreign\.npz is damaged or not a file of ofa-frontier"):
        load(tmp_path / "foreign.npz")
    artifact.save(tmp_path / "other.npz", "something else", {}, {})
    with pytest.raises(ValueError, match="holds something else, expected latency predictor"):
        load(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="no file"):
        load(tmp_path / "absent.npz")


def test_objects_in_an_npz_are_never_unpickled(tmp_path):
    facts = json.dumps({"kind": "latency predictor", "version": 1})
    np.savez(tmp_path / "evil.npz", facts=np.array(facts), cells=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path / "evil.npz")


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_no_flipped_byte_changes_what_is_loaded(name, tmp_path):
    """Each is refused in a line that names the file, or changes nothing (names and dates inside a zip,
    the name of the checksum)."""
    path, rng = tmp_path / name, np.random.default_rng(0)
    arrays = {"weights": rng.standard_normal((20, 30)).astype(np.float32), "steps": np.arange(9)}
    artifact.save(path, "kind", arrays, {"top1": 0.75, "by_epoch": {2: 0.5, 10: 0.6}})
    content, refused = path.read_bytes(), 0
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            loaded, facts = artifact.load(path, "kind")
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017 (in a loop, and not always raised)
            refused += 1
        else:
            assert (facts["top1"], facts["by_epoch"]) == (0.75, {"2": 0.5, "10": 0.6})
            assert all((loaded[key] == array).all() for key, array in arrays.items())
    assert refused > 0.9 * len(range(0, len(content), 7))


def test_texts_that_spreadsheets_compute_are_quoted_and_come_back(tmp_path):
    texts = ["=1+1", "+a", "-b", "@home", "\tx", "\rx", "'=2", "''=2", "'quoted'", "plain", "a=b", "", "-"]
    path = tmp_path / "a.csv"
    path.write_text(tables.Table({"=head": texts, "ms": [-1.5] * 13, "level": ["-2"] * 13}).csv(), newline="")
    with path.open(newline="") as file:
        heads, *rows = csv.reader(file)
    assert heads == ["'=head", "ms", "level"]
    computed = [cell for cell, *_ in rows if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    assert computed == ["-"]  # by itself it is a text everywhere
    read = tables.read_columns(path)
    assert read["=head"].tolist() == texts
    assert read["ms"].tolist() == [-1.5] * 13
    assert read["level"].tolist() == [-2.0] * 13


def test_no_flipped_byte_gives_a_traceback(tmp_path):
    """Any damage is a ValueError that names the file, or does not matter (time stamps inside the zip)."""
    content = (catalogue.FOLDER / "v100_b64.npz").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "v100_b64.npz"
    refused = [place for place in rng.integers(0, len(content), 150) if not survives(path, content, place)]
    assert len(refused) > 130


def survives(path, content, place):
    """Whether the file loads with one byte flipped; a refusal must name it."""
    path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
    try:
        load(path)
    except ValueError as error:
        return path.name not in str(error)
    return True


def test_right_kind_with_wrong_content_is_refused(tmp_path):
    artifact.save(tmp_path / "p.npz", "latency predictor", {"cells": np.ones(3)}, {"target": {}})
    with pytest.raises(ValueError, match=r"p\.npz is no usable latency predictor"):
        load(tmp_path / "p.npz")
    artifact.save(tmp_path / "a.npz", "accuracy surrogate", {}, {"space": "fbnet"})
    with pytest.raises(ValueError, match=r"a\.npz is no usable accuracy surrogate"):
        accuracy.load(tmp_path / "a.npz")


def test_newer_versions_are_refused(tmp_path):
    facts = json.dumps({"kind": "kind", "version": 99})
    np.savez(tmp_path / "new.npz", facts=np.array(facts))
    with pytest.raises(ValueError, match="version 99"):
        artifact.load(tmp_path / "new.npz", "kind")


def test_tables_plain_and_compressed(tmp_path):
    text = "name,ms,r\na,1.5,192\nb,,160\n"
    (tmp_path / "t.csv").write_text(text)
    with gzip.open(tmp_path / "t.csv.gz", "wt") as file:
        file.write(text)
    for name in ("t.csv", "t.csv.gz"):
        columns = tables.read_columns(tmp_path / name)
        assert columns["name"].tolist() == ["a", "b"]
        assert columns["ms"][0] == 1.5
        assert np.isnan(columns["ms"][1])


@pytest.mark.parametrize(("text", "message"), [("a,b\n", "no rows"), ("a,b\n1,2\n3\n", "line 3 has 1 cells")])
def test_broken_tables_say_where(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        tables.read_columns(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="no table"):
        tables.read_columns(tmp_path / "absent.csv")
    (tmp_path / "t.csv.gz").write_bytes(b"not compressed")
    with pytest.raises(ValueError, match=r"t\.csv\.gz cannot be read"):
        tables.read_columns(tmp_path / "t.csv.gz")


def test_percent_or_fraction():
    assert tables.percent({"top1": np.array([0.5, 0.76])}, "top1", "a.csv").tolist() == [50.0, 76.0]
    assert tables.percent({"top1": np.array([50.0, 76.0])}, "top1", "a.csv").tolist() == [50.0, 76.0]
    with pytest.raises(ValueError, match="top-1"):
        tables.percent({"top1": np.array([0.5, np.nan])}, "top1", "a.csv")


def test_data_folder_that_is_not_there(monkeypatch):
    monkeypatch.setenv("OFA_FRONTIER_DATA", "/nowhere")
    with pytest.raises(ValueError, match="/nowhere"):
        tables.data_dir()


def test_tensors_and_arrays_go_through_the_same_functions(tmp_path):
    """Every array comes back with its shape (also a scalar's) and values, whatever its order in memory."""
    arrays = {"turned": np.arange(6.0).reshape(2, 3).T, "one": np.array(3)}
    for name in ("a.npz", "a.safetensors"):
        artifact.save(tmp_path / name, "kind", arrays, {"of": "both"})
        loaded, facts = artifact.load(tmp_path / name, "kind")
        assert facts["of"] == "both"
        for key, array in arrays.items():
            assert loaded[key].shape == array.shape
            assert (loaded[key] == array).all()
        with pytest.raises(ValueError, match="holds kind, expected other"):
            artifact.load(tmp_path / name, "other")
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-3])
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            artifact.load(tmp_path / name, "kind")


def test_a_failed_write_leaves_the_old_content(tmp_path):
    artifact.write_text(tmp_path / "new" / "a.txt", "old")
    with pytest.raises(TypeError):
        artifact.write_json(tmp_path / "new" / "a.txt", {1: object()})
    with pytest.raises(TypeError), disk.replacing(tmp_path / "new" / "a.txt") as file:
        file.writelines([b"half of", "it"])
    assert (tmp_path / "new" / "a.txt").read_text() == "old"


def test_a_half_line_is_cut_off_and_no_other(tmp_path):
    for before, after in ((b"", b""), (b"a\nb\n", b"a\nb\n"), (b"a\nhal", b"a\n"), (b"hal", b"")):
        (tmp_path / "log").write_bytes(before)
        with disk.appending(tmp_path / "log") as file:
            disk.append(file, "new\n")
        assert (tmp_path / "log").read_bytes() == after + b"new\n"


def test_a_file_that_another_process_writes_is_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    monkeypatch.setattr(disk, "WAIT_SECONDS", 0.05)
    with disk.reserved(path):
        assert disk.is_ours(path)
        with pytest.raises(disk.BusyError, match=r"another process is writing .*a\.txt; name another"):
            disk.reserved(path).__enter__()
        with disk.replacing(tmp_path / "b.txt") as file:
            file.write(b"whole")
            with pytest.raises(disk.BusyError, match=r"b\.txt"):
                artifact.write_text(tmp_path / "b.txt", "other")
    assert sorted(os.listdir(tmp_path)) == ["b.txt"]
    assert (tmp_path / "b.txt").read_text() == "whole"


def test_a_link_is_not_written_through(tmp_path):
    """In a folder of somebody else: what it leads to stays as it is."""
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "a.txt.part").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(OSError, match=r"a\.txt\.part"):
        artifact.write_text(tmp_path / "a.txt", "theirs")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_kept_space_takes_what_a_full_disk_does_not(tmp_path):
    path, full = tmp_path / "a.npz", [OSError(errno.ENOSPC, "full")]

    def save():
        if full and (tmp_path / "a.npz.spare.part").exists():
            raise full[0]
        path.write_text("saved")

    with disk.Spare(path, 4096) as spare:
        assert (tmp_path / "a.npz.spare.part").stat().st_size == 4096
        spare.write(save)
    assert path.read_text() == "saved"
    assert os.listdir(tmp_path) == ["a.npz"]


def test_one_table_for_csv_markdown_and_the_terminal(capsys):
    heads = ("model", "ms", "share", "ranks", "none")
    rows = [("a", 12.345678, "**97.5%**", "1-3", None), ("2080ti", 13, "1.5 +- 0.7", "2-2", 1.0)]
    table = tables.Table.from_rows(heads, rows)
    assert table.csv().splitlines() == [
        "model,ms,share,ranks,none",
        "a,12.345678,**97.5%**,1-3,",
        "2080ti,13,1.5 +- 0.7,2-2,1.0",
    ]
    assert table.markdown().splitlines() == [
        "| model | ms | share | ranks | none |",
        "|---|---:|---:|---:|---:|",
        "| a | 12.35 | **97.5%** | 1-3 |  |",
        "| 2080ti | 13 | 1.5 +- 0.7 | 2-2 | 1 |",
    ]
    assert json.loads(table.json())[1] == dict(zip(heads, rows[1], strict=True))
    table.show()
    assert capsys.readouterr().out.splitlines()[1].split() == ["a", "12.35", "**97.5%**", "1-3"]
    assert tables.Table.from_rows(heads, []).csv() == "model,ms,share,ranks,none\n"
