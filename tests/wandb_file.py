"""What W&B wrote offline, decoded: its file is a log in LevelDB's form of the records of its protocol."""

import struct
from pathlib import Path

HEAD, BLOCK = 7, 32768  # bytes before the first block, and of a block
LAST = (1, 4)  # kinds of pieces that end a record: whole ones and last ones


def wandb_records(folder: Path):
    """The records of all runs in a run folder, the earlier file first."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda one: one.stat().st_mtime_ns):
        content, place, record = path.read_bytes(), HEAD, b""
        while place + HEAD <= len(content):
            if BLOCK - place % BLOCK < HEAD:
                place += BLOCK - place % BLOCK
                continue
            _, length, kind = struct.unpack("<IHB", content[place : place + HEAD])
            record += content[place + HEAD : place + HEAD + length]
            place += HEAD + length
            if kind in LAST:
                yield Record.FromString(record)
                record = b""
