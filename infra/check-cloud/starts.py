"""Every function that was built is an x86_64 executable that starts.

    starts.py FIXTURE BUILD

Started without Lambda's environment, a function must say in plain words what it misses. A binary with a wrong C library
or processor would not come so far: the loader ends it, with 126, 127 or a signal.
"""

import json
import pathlib
import struct
import subprocess
import sys

ELF_MACHINE_X86_64 = 62
# What the loader says where a library, a symbol version or the processor does not fit.
LOADER = ("error while loading shared libraries", "not found (required by", "cannot execute", "Exec format error")


def fault(binary):
    """Why the binary would not do, or nothing; and what it says when it starts."""
    if not binary.is_file():
        return "is missing", ""
    head = binary.read_bytes()[:20]
    if head[:5] != b"\x7fELF\x02":
        return "is no 64-bit ELF file", ""
    (machine,) = struct.unpack_from("<H", head, 18)
    if machine != ELF_MACHINE_X86_64:
        return f"is for ELF machine {machine}, not x86_64", ""
    try:
        ended = subprocess.run([binary.resolve()], env={}, capture_output=True, text=True, timeout=20)
    except OSError as error:
        return f"does not start: {error}", ""
    except subprocess.TimeoutExpired:
        return "does not end without Lambda's environment", ""
    said = (ended.stderr + ended.stdout).strip()
    if ended.returncode < 0 or ended.returncode in (126, 127) or any(words in said for words in LOADER):
        return f"does not start (exit {ended.returncode}): {said}", ""
    if ended.returncode == 0 or not said:
        return f"says nothing about the environment it misses (exit {ended.returncode})", ""
    return None, said


def main():
    fixture, build = (pathlib.Path(argument) for argument in sys.argv[1:])
    functions = json.loads(fixture.read_text(encoding="utf-8"))[0]["expanded"]["functions"]
    faults = 0
    for function in sorted(functions):
        binary = build / function / "bootstrap"
        why, said = fault(binary)
        if why:
            faults += 1
            print(f"{binary} {why}")
        else:
            size = binary.stat().st_size / 1_000_000
            print(f"{function}: {size:.1f} MB; {said.splitlines()[0]}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
