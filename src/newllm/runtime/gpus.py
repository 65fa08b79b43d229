"""One training, one GPU: a stage takes one that no other stage of ours holds, before CUDA starts.

CUDA reads CUDA_VISIBLE_DEVICES when it starts. So the stage names there the one GPU that it took, which everything
after sees as the only one, `cuda:0`. A GPU is taken by a lock on a file that bears its UUID, in a folder that is the
same for all copies of the project on a machine. The kernel lets go of a lock when its process ends, however it ends.
Trainings that find none free stand in line, by another lock, so that the longest, which are queued first, come first.
"""

import fcntl
import hashlib
import os
import sys
import time
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pynvml

from newllm.errors import UserError

VARIABLE = "CUDA_VISIBLE_DEVICES"
TURN = 0.5  # seconds between two looks at GPUs that are all taken
QUICK = ("evaluate", "diagnose")  # stages of seconds: they go before those in line, by looking more often


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a part of one (MIG), that CUDA sees as a device.

    Attributes:
        name: by which CUDA_VISIBLE_DEVICES gets it: its UUID, or what the user wrote there.
        uuid: NVML's.
        title: for people.
    """

    name: str
    uuid: str
    title: str


def folder_of_locks() -> Path:
    """The same for every process of this user on this machine.

    Not in TMPDIR, which differs between sessions, nor at home, which machines share and where locks may not work.
    """
    return Path("/tmp") / f"newllm-gpus-{os.getuid()}"  # noqa: S108 (made for the user alone, see _open)


def installed() -> list[list[Gpu]]:
    """The machine's GPUs in NVML's order, each as the devices that CUDA sees: itself, or its MIG instances.

    Empty where NVML finds none: CUDA may have a GPU all the same, which then cannot be locked.
    """
    try:
        pynvml.nvmlInit()
        return [_devices(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def _devices(index: int) -> list[Gpu]:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    title = f"GPU {index}, {pynvml.nvmlDeviceGetName(handle)}"
    try:
        is_divided = pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    except pynvml.NVMLError:  # a GPU without MIG
        is_divided = False
    if not is_divided:
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        return [Gpu(uuid, uuid, title)]
    instances = []
    for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with suppress(pynvml.NVMLError):  # numbers without an instance
            uuid = pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number))
            instances.append(Gpu(uuid, uuid, f"{title}, MIG instance {number}"))
    return instances


def visible(value: str | None, gpus: Sequence[Sequence[Gpu]]) -> list[Gpu]:
    """The devices that a value of CUDA_VISIBLE_DEVICES allows, in its order; None: all.

    A device that the user named keeps that name. As for CUDA the list ends at a name that is none's, and a number or a
    UUID of a GPU that is divided means its first MIG instance. Numbers are taken in NVML's order, which is CUDA's where
    all GPUs are of one kind or CUDA_DEVICE_ORDER is PCI_BUS_ID.
    """
    if value is None:
        return list(chain.from_iterable(gpus))
    found: list[Gpu] = []
    for name in (part.strip() for part in value.split(",")):
        if name.isdecimal():
            matching = [devices[0] for devices in gpus[int(name) : int(name) + 1] if devices]
        else:
            matching = [device for device in chain.from_iterable(gpus) if name and device.uuid.startswith(name)]
        if not matching and name.startswith("MIG-"):  # an older form of MIG names, which NVML does not tell
            matching = [Gpu(name, name, name)]
        if not matching:
            break
        found.append(Gpu(name, matching[0].uuid, matching[0].title))
    return found


def take_gpu(
    environment: MutableMapping[str, str] = os.environ,
    gpus: Sequence[Sequence[Gpu]] | None = None,
    folder: Path | None = None,
) -> Gpu | None:
    """Takes a GPU for the rest of this process, waits while all are taken, and says which; None: there is none.

    To be called before anything starts CUDA. `environment` may restrict the choice and tells afterwards the one device.

    Raises:
        UserError: the folder of locks is another user's.
    """
    choice = visible(environment.get(VARIABLE), installed() if gpus is None else gpus)
    if not choice:
        return None
    folder = folder or folder_of_locks()
    stage = environment.get("DVC_STAGE", Path(sys.argv[0]).stem)
    in_line = stage.partition("@")[0] not in QUICK
    names = ",".join(sorted(gpu.uuid for gpu in choice))
    line = _open(f"line-{hashlib.sha256(names.encode()).hexdigest()[:16]}", folder)
    taken = _first_free(choice, folder, stage) if not in_line or _lock(line) else None
    if taken is None:
        holders = ", ".join(f"{gpu.title}: {_holder(gpu, folder)}" for gpu in choice)
        print(f"{stage}: waits for one of these GPUs ({holders})", flush=True)
        if in_line:
            fcntl.flock(line, fcntl.LOCK_EX)  # Linux wakes who has waited longest
        while (taken := _first_free(choice, folder, stage)) is None:
            time.sleep(TURN if in_line else TURN / 10)
    os.close(line)
    environment[VARIABLE] = taken.name
    print(f"{stage}: on {taken.title}, {taken.uuid}", flush=True)
    return taken


def _first_free(gpus: Sequence[Gpu], folder: Path, stage: str) -> Gpu | None:
    """Locks the first that nobody holds. The descriptor stays open until the process ends."""
    for gpu in gpus:
        file = _open(gpu.uuid, folder)
        if _lock(file):
            os.ftruncate(file, 0)
            os.write(file, f"{stage}, process {os.getpid()}".encode())
            return gpu
        os.close(file)
    return None


def _lock(file: int) -> bool:
    """Whether nobody else has locked it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(gpu: Gpu, folder: Path) -> str:
    file = _open(gpu.uuid, folder)
    holder = "free" if _lock(file) else _path(gpu.uuid, folder).read_text(encoding="utf-8")
    os.close(file)
    return holder


def _open(name: str, folder: Path) -> int:
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder}: found a folder of another user, expected this user's; ask its owner to remove it")
    return os.open(_path(name, folder), os.O_RDWR | os.O_CREAT, 0o600)


def _path(name: str, folder: Path) -> Path:
    return folder / name.replace("/", "-")  # older names of MIG instances have slashes
