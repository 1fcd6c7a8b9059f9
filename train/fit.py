"""Teach the network, and find how far to trust it. Nothing here sees what is reported."""

import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from train.augment import distort
from train.data import NO_DIGIT, Digits, Lessons
from train.model import Network
from train.settings import Settings

EVALUATION_BATCH = 1_000
MAY_DOUBT = 0.005  # share of held-out digits that are called uncertain


@dataclass(frozen=True)
class Epoch:
    """The figures of one epoch: of what taught, and of each part that chooses."""

    number: int
    seconds: float
    loss: float
    accuracy: float
    held_out: dict[str, float]  # accuracy, by part

    def __str__(self) -> str:
        held_out = "  ".join(f"{part} {value:.2%}" for part, value in self.held_out.items())
        return (
            f"epoch {self.number:2}  {self.seconds:5.1f} s  loss {self.loss:.4f}  "
            f"accuracy {self.accuracy:.2%}  held out: {held_out}"
        )


@dataclass(frozen=True)
class Fitted:
    """The network on the CPU, how far to trust it, and how it came about."""

    network: Network
    temperature: float  # logits are divided by it before softmax
    doubt_below: float  # confidence under which an answer is uncertain
    epochs: list[Epoch]


def choose_device(name: str | None = None) -> torch.device:
    """Return the named device, or the fastest one there is."""
    if name:
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def fit(
    teach: Lessons, choose: dict[str, Digits], settings: Settings, device: torch.device
) -> Fitted:
    """Teach a network; let what `choose` has tell how far to trust its answers.

    The last epoch is kept: the learning rate has come down to nothing by then, and to pick the best
    of noisy scores would be to pick by luck.
    """
    torch.manual_seed(settings.seed)
    run = _Run(settings, device, math.ceil(len(teach) / settings.batch))
    network = run.network
    choose = {name: part.to(device) for name, part in choose.items()}
    epochs: list[Epoch] = []
    for number in range(1, settings.epochs + 1):
        started = time.monotonic()
        loss, right = run.teach(teach.epoch(number).to(device), f"epoch {number}/{settings.epochs}")
        held_out = {name: accuracy(logits_of(network, p), p) for name, p in choose.items()}
        epochs.append(Epoch(number, time.monotonic() - started, loss, right, held_out))
        print(epochs[-1], flush=True)

    logits = torch.cat([logits_of(network, part) for part in choose.values()])
    temperature = calibrate(logits, torch.cat([part.labels for part in choose.values()]))
    confidences = F.softmax(logits / temperature, dim=1).amax(dim=1)
    doubt_below = float(confidences.quantile(MAY_DOUBT))
    return Fitted(network.cpu().eval(), temperature, doubt_below, epochs)


class _Run:
    """The network under way, and what moves its weights."""

    def __init__(self, settings: Settings, device: torch.device, steps: int) -> None:
        self.settings = settings
        self.network = Network(settings.channels).to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), weight_decay=settings.weight_decay, fused=True
        )
        # A row a label; of what is no digit (the last row), no digit is likelier than another.
        smoothing = settings.label_smoothing
        rows = torch.eye(10) * (1 - smoothing) + smoothing / 10
        self.targets = torch.cat((rows, torch.full((1, 10), 0.1))).to(device)
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
        """Teach one epoch; return its mean loss, and how much of the digits it read right."""
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
                bar.set_postfix(loss=f"{float(loss_sum) / seen:.4f}")
        return float(loss_sum) / seen, float(right) / int((digits.labels != NO_DIGIT).sum())

    def _step(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = distort(as_images(pixels), self.settings.distortion).contiguous(
            memory_format=torch.channels_last
        )
        with self.arithmetic:
            logits = self.network(images).float()
        loss = F.cross_entropy(logits, self.targets[labels])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return loss.detach(), logits.detach()


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
