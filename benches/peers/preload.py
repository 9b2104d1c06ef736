"""Libraries that PyTorch on a CPU is started anew with, for what it does not choose best by itself.

An allocator: the system's is slower, by a fifth on some machines.

On AMD's processors, a function by which MKL takes them for Intel's. PyTorch's products in float32 are MKL's, which
gives other makers' CPUs older code: half the FLOP/s on a Zen 5 with AVX-512, a tenth less with AVX2 alone.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# The fastest first, as measured with scripts/bench.
ALLOCATORS = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4", "libjemalloc.so.2")
LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64",
                   "/usr/lib", "/usr/local/lib")
# Set in the process that was started anew, to what it was started with.
CHOSEN = "PEER_PRELOADED"


def allocator(choice):
    """The path of an allocator, or None for the system's."""
    if choice == "system":
        return None
    wanted = [name for name in ALLOCATORS if choice == "auto" or choice in name]
    paths = (Path(folder, name) for name in wanted for folder in LIBRARY_FOLDERS)
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        sys.exit(f"none of {', '.join(wanted)} is in {', '.join(LIBRARY_FOLDERS)}: install one (Debian: "
                 "libtcmalloc-minimal4), or pass --allocator system, which is slower")
    return path


def is_amd():
    cpu = Path("/proc/cpuinfo")
    return cpu.exists() and "AuthenticAMD" in cpu.read_text()


def intel_path():
    """The path of a library that answers MKL's question whether the CPU is Intel's; built where it is not there yet."""
    library = Path(tempfile.gettempdir(), f"streamrec-peers-{os.getuid()}", "libmkl_intel_path.so")
    if library.exists():
        return library
    compiler, built = os.environ.get("CC", "cc"), library.with_suffix(f".{os.getpid()}")
    library.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", built], check=True, capture_output=True,
                       text=True, input="int mkl_serv_intel_cpu_true(void) { return 1; }\n")
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit("no library that gives PyTorch MKL's fast products on an AMD CPU: "
                 f"{getattr(error, 'stderr', None) or error}; install a C compiler (Debian: gcc), or pass --mkl own, "
                 "which is slower")
    # Whole or not there, whoever else builds it.
    built.rename(library)
    return library


def add_arguments(parser):
    parser.add_argument("--allocator", default="auto",
                        choices=("auto", "jemalloc", "tcmalloc", "system"))
    parser.add_argument("--mkl", default="auto", choices=("auto", "own"),
                        help="on an AMD CPU, MKL's products as on Intel's, or what it chooses itself")


def restart(args):
    """Starts this script anew with what is to be preloaded; in the new process, names it for `versions`."""
    if CHOSEN in os.environ:
        return json.loads(os.environ[CHOSEN])
    libraries, chosen = [], {"allocator": "system"}
    if path := allocator(args.allocator):
        libraries.append(path)
        chosen["allocator"] = path.name
    if args.mkl == "auto" and is_amd():
        libraries.append(intel_path())
        chosen["MKL"] = "as on Intel's CPUs"
    os.environ[CHOSEN] = json.dumps(chosen)
    os.environ["LD_PRELOAD"] = ":".join(map(str, libraries))
    os.environ.setdefault("MALLOC_CONF", "oversize_threshold:1,background_thread:true,metadata_thp:auto,"
                          "dirty_decay_ms:-1,muzzy_decay_ms:-1")
    os.execv(sys.executable, [sys.executable, *sys.argv])
