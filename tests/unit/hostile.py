"""Runs commands on files of somebody else, in one process that notes what Python does meanwhile.

Called as `python hostile.py CASES.json`, a list of {name, words, cwd}; prints a JSON line per case with what
the command said, and what it did that no file may bring about.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
PROGRAMS = {
    "git",
    "lscpu",
    "uname",
    "fc-list",
}  # that env.json and the description of this machine are made with
STARTS = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn"}
CONNECTS = {"socket.connect", "socket.getaddrinfo", "urllib.Request"}
PICKLED = {"torch", "collections", "numpy", "_codecs", "ofa"}  # names in pickles that torch itself asks for
CHANGES = {
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.symlink",
    "os.link",
    "os.chmod",
    "os.truncate",
}
notes: list[str] = []
inside: list[str] = []  # folders that the case may write to and never run code from; none while nothing runs


def within(path, folders):
    real = os.path.realpath(os.fspath(path)) + os.sep
    return any(real.startswith(folder + os.sep) for folder in folders)


def watch(event, args):
    if not inside:
        return
    if (event in STARTS and os.path.basename(str(args[0])) not in PROGRAMS) or event in CONNECTS:
        notes.append(f"{event} {args!r:.200}")
    elif event == "pickle.find_class" and str(args[0]).partition(".")[0] not in PICKLED:
        notes.append(f"{event} {args!r}")
    elif (
        event == "exec"
        and os.path.isabs(name := getattr(args[0], "co_filename", ""))
        and within(name, inside)
    ):
        notes.append(f"{event} {args[0].co_filename}")
    elif event == "import" and str(args[0]).startswith("evil"):
        notes.append(f"{event} {args[0]}")
    elif event == "open" and isinstance(args[0], str | os.PathLike):
        writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        if writes and str(args[0]) != os.devnull and not within(args[0], inside):
            notes.append(f"writes {args[0]}")
    elif event in CHANGES:
        for path in args[:2] if event in ("os.rename", "os.link") else args[:1]:
            if isinstance(path, str | os.PathLike) and not within(path, inside):
                notes.append(f"{event} {path}")


def main():
    sys.dont_write_bytecode = True
    import torch

    torch.set_num_threads(1)
    from latency.measuring import machine
    from tests.e2e.commands import call

    machine.specification()  # describes this machine by programs, once in a process

    scratch = os.path.realpath(tempfile.gettempdir())
    sys.addaudithook(watch)
    for case in json.loads(Path(sys.argv[1]).read_text()):
        notes.clear()
        cwd = os.path.realpath(case["cwd"])
        inside[:] = [cwd, scratch]
        try:
            code, out, err = call(*case["words"], cwd=cwd)
        except Exception as error:
            code, out, err = 99, "", f"traceback: {type(error).__name__}: {error}"
        inside.clear()
        print(json.dumps({"name": case["name"], "code": code, "out": out, "err": err, "notes": notes}))


if __name__ == "__main__":
    main()
