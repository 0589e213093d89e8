"""The start of a process: its device, and under torchrun its process group."""

import os
import re
from datetime import timedelta

import torch
import torch.distributed as dist

from detengine.distributed.meeting import fresh_store
from detengine.distributed.out_of_memory import is_out_of_memory
from detengine.distributed.report import PeerFailedError

_FROM_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_CURE = "Set MODEL.DEVICE to cpu, or to auto, which takes the best device that is there."


def resolve_device(setting: str) -> torch.device:
    """The device that MODEL.DEVICE names. setting: auto, cpu, mps, cuda or cuda:N.

    auto is cuda where there is one, else mps, else cpu; cuda is cuda:0. Raises ValueError if the
    setting is none of these or the device is not there.
    """
    if setting == "auto":
        setting = _best_device()
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", setting):
        raise ValueError(
            f"MODEL.DEVICE is {setting!r}; expected auto, cpu, mps, cuda or cuda:N. {_CURE}"
        )
    if setting == "mps" and not torch.backends.mps.is_available():
        raise ValueError(
            f"MODEL.DEVICE is 'mps', but torch {torch.__version__} finds no Apple GPU on this "
            f"machine. {_CURE}"
        )
    device = torch.device("cuda:0" if setting == "cuda" else setting)
    if device.type == "cuda":
        _raise_if_gpu_missing(device, f"MODEL.DEVICE is {setting!r}")
    return device


def start_distributed(device_setting: str, timeout_minutes: float | None = None) -> torch.device:
    """This process's device; under torchrun (WORLD_SIZE above 1) joins the process group first.

    All ranks call it once, before anything touches the device; a second call changes nothing. Each
    rank of a machine takes the GPU of its LOCAL_RANK; GPUs share tensors over nccl, all else goes
    over gloo, from host to host, so that ranks can talk without waiting for a device.
    timeout_minutes: the watchdog's (`distributed.watchdog`). A collective's own is a minute more,
    because it tells less; None leaves torch's.
    Raises ValueError as `resolve_device` does, and where the ranks cannot have a device each or
    torchrun's other variables are missing; TimeoutError, naming them, where some do not come, and
    PeerFailedError where some come and go.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1:
        device = _device_of_this_rank(device_setting, world_size)
    else:
        device = resolve_device(device_setting)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    if world_size > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"  # what ranks say, and what they share
        minutes = None if timeout_minutes is None else timedelta(minutes=timeout_minutes + 1)
        try:
            dist.init_process_group(
                backend,
                timeout=minutes,
                world_size=world_size,
                rank=int(os.environ["RANK"]),
                store=fresh_store(minutes),
                device_id=device if on_gpu else None,
            )
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise _could_not_join(error) from error
    return device


def _could_not_join(error: RuntimeError) -> PeerFailedError:
    """What torch says of it is a stack in C++ and names nobody."""
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return PeerFailedError(
        f"rank {os.environ['RANK']} could not join the others: {first_line.rstrip('.')}. One of "
        "them ended before all were there: its own output says why. If none did, look at the "
        f"network between them, and to rank 0 at {address}.",
        is_told=True,
    )


def stop_distributed() -> None:
    """Leave the process group, if there is one. All ranks, and all at once.

    A rank that leaves while another still talks ends that one in gloo's threads, by SIGABRT.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _device_of_this_rank(setting: str, world_size: int) -> torch.device:
    missing = [name for name in _FROM_TORCHRUN if name not in os.environ]
    if missing:
        raise ValueError(
            f"WORLD_SIZE is {world_size} in the environment, but {', '.join(missing)} is not set. "
            "Start the processes with torchrun, which sets all of them, or unset WORLD_SIZE."
        )
    if setting == "auto" and not torch.cuda.is_available():
        setting = "cpu"  # ranks cannot share Apple's one GPU
    if setting == "mps" or setting.startswith("cuda:"):
        raise ValueError(
            f"MODEL.DEVICE is {setting!r}, one device for {world_size} processes of torchrun. "
            "Set MODEL.DEVICE to cuda (a GPU for each), cpu or auto, or start without torchrun."
        )
    device = resolve_device(setting)
    if device.type == "cuda":
        local_rank = int(os.environ["LOCAL_RANK"])
        device = torch.device("cuda", local_rank)
        _raise_if_gpu_missing(device, f"process {local_rank} of this machine takes {device}")
    return device


def _raise_if_gpu_missing(device: torch.device, asked: str) -> None:
    if torch.version.cuda is None and torch.version.hip is None:
        raise ValueError(
            f"{asked}, but the installed torch {torch.__version__} was built without CUDA. {_CURE}"
        )
    count = torch.cuda.device_count()
    if device.index >= count:
        raise ValueError(
            f"{asked}, but torch {torch.__version__} sees {count} GPUs on this machine "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}). {_CURE}"
        )
