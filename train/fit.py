"""Teach the network, and choose what is kept of it. Nothing here sees what is reported."""

import copy
import math
import time
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from train.augment import distort
from train.data import Digits
from train.model import Network

EVALUATION_BATCH = 1_000
MAY_DOUBT = 0.01  # share of real digits that may be called uncertain


@dataclass(frozen=True)
class Settings:
    """What a training run is told; kept in its checkpoint."""

    epochs: int = 14
    batch: int = 256
    learning_rate: float = 6e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    averaging: float = 0.998  # decay of the weights' exponential average, a step
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """The figures of one epoch: of what taught, and of each part that chooses."""

    number: int
    seconds: float
    loss: float
    accuracy: float
    chosen_by: dict[str, float]  # accuracy of the averaged weights, by part

    @property
    def score(self) -> float:
        """Return what the best epoch is chosen by: the mean over the parts."""
        return sum(self.chosen_by.values()) / len(self.chosen_by)

    def __str__(self) -> str:
        chosen_by = "  ".join(f"{part} {value:.2%}" for part, value in self.chosen_by.items())
        return (
            f"epoch {self.number:2}  {self.seconds:5.1f} s  loss {self.loss:.4f}  "
            f"accuracy {self.accuracy:.2%}  held out: {chosen_by}"
        )


@dataclass(frozen=True)
class Fitted:
    """The best epoch's network on the CPU, how far to trust it, and how it came about."""

    network: Network
    temperature: float  # logits are divided by it before softmax
    doubt_below: float  # confidence under which an answer is uncertain
    best: Epoch
    epochs: list[Epoch]


def choose_device(name: str | None = None) -> torch.device:
    """Return the named device, or the fastest one there is."""
    if name:
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def fit(
    teach: Digits, choose: dict[str, Digits], settings: Settings, device: torch.device
) -> Fitted:
    """Teach a network on `teach`; return it as of the epoch that reads `choose` best."""
    torch.manual_seed(settings.seed)
    teach = teach.to(device)
    choose = {name: part.to(device) for name, part in choose.items()}
    run = _Run(settings, device, math.ceil(len(teach) / settings.batch))
    epochs: list[Epoch] = []
    for number in range(1, settings.epochs + 1):
        started = time.monotonic()
        loss, right = run.teach(teach, f"epoch {number}/{settings.epochs}")
        network = cast(Network, run.average.module)
        chosen_by = {name: accuracy(logits_of(network, p), p) for name, p in choose.items()}
        epochs.append(Epoch(number, time.monotonic() - started, loss, right, chosen_by))
        print(epochs[-1], flush=True)
        if epochs[-1] is max(reversed(epochs), key=lambda epoch: epoch.score):
            best, best_epoch = copy.deepcopy(network), epochs[-1]

    logits = {name: logits_of(best, part) for name, part in choose.items()}
    temperature = calibrate(
        torch.cat(list(logits.values())), torch.cat([part.labels for part in choose.values()])
    )
    confidences = [F.softmax(part / temperature, dim=1).amax(dim=1) for part in logits.values()]
    doubt_below = min(float(part.quantile(MAY_DOUBT)) for part in confidences)
    return Fitted(best.cpu().eval(), temperature, doubt_below, best_epoch, epochs)


class _Run:
    """The network under way, with the average of its weights and what moves them."""

    def __init__(self, settings: Settings, device: torch.device, steps: int) -> None:
        self.settings = settings
        self.network = Network().to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedModel(self.network, avg_fn=self._average, use_buffers=True)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), weight_decay=settings.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            settings.learning_rate,
            epochs=settings.epochs,
            steps_per_epoch=steps,
        )
        # Half the bits, twice the speed, where the hardware has bfloat16.
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported()
        else:
            fast = device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)
        self.arithmetic = torch.autocast(device.type, torch.bfloat16, enabled=fast)

    def teach(self, digits: Digits, title: str) -> tuple[float, float]:
        """Teach one epoch; return its mean loss and accuracy."""
        self.network.train()
        loss_sum = torch.zeros((), device=digits.labels.device)
        right = torch.zeros_like(loss_sum)
        order = torch.randperm(len(digits), device=digits.labels.device)
        bar = tqdm(order.split(self.settings.batch), desc=title, leave=False, disable=None)
        seen = 0
        for step, chosen in enumerate(bar):
            loss, logits = self._step(digits.pixels[chosen], digits.labels[chosen])
            loss_sum += loss * len(chosen)
            right += (logits.argmax(dim=1) == digits.labels[chosen]).sum()
            seen += len(chosen)
            if step % 20 == 0:  # reading a figure off a GPU waits for it
                bar.set_postfix(
                    loss=f"{float(loss_sum) / seen:.4f}", accuracy=f"{float(right) / seen:.2%}"
                )
        return float(loss_sum) / seen, float(right) / seen

    def _step(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = distort(as_images(pixels)).contiguous(memory_format=torch.channels_last)
        with self.arithmetic:
            logits = self.network(images).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.network)
        return loss.detach(), logits.detach()

    def _average(self, average: Tensor, now: Tensor, updates: Tensor | int) -> Tensor:
        # Young averages forget faster, or a short run would keep what it began with.
        share = max(1 - self.settings.averaging, 10 / (10 + float(updates)))
        return average + (now - average) * share


def as_images(pixels: Tensor) -> Tensor:
    """Return uint8 [n, 28, 28] as what the network reads, float32 [n, 1, 28, 28], 0 to 1."""
    return pixels.unsqueeze(1).float() / 255


@torch.no_grad()
def logits_of(network: Network, digits: Digits) -> Tensor:
    """Return what the network answers to each digit, float32 [n, 10]."""
    network.eval()
    return torch.cat(
        [network(as_images(pixels)) for pixels in digits.pixels.split(EVALUATION_BATCH)]
    )


def accuracy(logits: Tensor, digits: Digits) -> float:
    """Return the share of digits whose largest logit is the right one."""
    return float((logits.argmax(dim=1) == digits.labels).float().mean())


def calibrate(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature that makes the true labels likeliest (Guo et al. 2017)."""
    candidates = torch.linspace(0.3, 3.0, 271)
    losses = [F.cross_entropy(logits / float(t), labels) for t in candidates]
    return float(candidates[int(torch.stack(losses).argmin())])
