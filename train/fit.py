"""Train the network and calibrate its confidence. The test data is not used here."""

import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from train.augment import random_affine
from train.data import Digits, TrainingSet
from train.model import Network
from train.settings import Settings
from webapp.prediction import OUTLIER

EVALUATION_BATCH_SIZE = 1_000
MAX_UNCERTAIN_CORRECT_RATE = 0.012  # on each validation set of at least MIN_DIGITS
MIN_DIGITS = 500  # in a validation set that the confidence threshold depends on


@dataclass(frozen=True)
class EpochMetrics:
    """Loss and accuracy in training, and the accuracy on each validation set."""

    number: int
    seconds: float
    loss: float
    accuracy: float
    val_accuracy: dict[str, float]

    def __str__(self) -> str:
        validation = "  ".join(f"{name} {value:.2%}" for name, value in self.val_accuracy.items())
        return (
            f"epoch {self.number:2}  {self.seconds:5.1f} s  loss {self.loss:.4f}  "
            f"accuracy {self.accuracy:.2%}  validation: {validation}"
        )


@dataclass(frozen=True)
class TrainedModel:
    """The network on the CPU, its calibration, and the metrics of each epoch."""

    network: Network
    temperature: float  # divides the logits before softmax
    confidence_threshold: float  # predictions with less confidence are uncertain
    epochs: list[EpochMetrics]


def choose_device(name: str | None = None) -> torch.device:
    """Return the named device, or the fastest one available. Raises ValueError."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    try:
        device = torch.device(name or accelerator or "cpu")
        torch.zeros(1, device=device)
    except (AssertionError, RuntimeError) as error:  # torch raises either
        raise ValueError(f"the device {name or accelerator} cannot be used: {error}") from error
    return device


def fit(
    train: TrainingSet,
    val: dict[str, Digits],
    settings: Settings,
    device: torch.device,
    network: Network | None = None,
) -> TrainedModel:
    """Train a network, then calibrate its confidence on the validation sets.

    network: the network to fine-tune; by default, a new one is trained.

    The last epoch is kept: by then the learning rate has decayed to almost nothing, and choosing
    the best of several noisy validation scores would favor luck.
    """
    torch.manual_seed(settings.seed)
    network = (network or Network(settings.width)).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        network.parameters(), weight_decay=settings.weight_decay, fused=True
    )
    steps = math.ceil(len(train) / settings.batch_size)
    schedule = OneCycleLR(
        optimizer, settings.learning_rate, epochs=settings.epochs, steps_per_epoch=steps
    )
    val = {name: digits.to(device) for name, digits in val.items()}
    epochs: list[EpochMetrics] = []
    for number in range(1, settings.epochs + 1):
        started = time.monotonic()
        digits = train.epoch(number).to(device)
        loss, accuracy = train_one_epoch(network, optimizer, schedule, digits, settings)
        val_accuracy = {name: evaluate_accuracy(network, part) for name, part in val.items()}
        seconds = time.monotonic() - started
        epochs.append(EpochMetrics(number, seconds, loss, accuracy, val_accuracy))
        print(epochs[-1], flush=True)

    logits = torch.cat([predict_logits(network, digits) for digits in val.values()])  # [n, 10]
    labels = torch.cat([digits.labels for digits in val.values()])  # [n]
    temperature = fit_temperature(logits, labels)
    sizes = [len(digits) for digits in val.values()]
    parts = zip((logits / temperature).split(sizes), labels.split(sizes), strict=True)
    # A quantile of few digits would be too noisy.
    threshold = min(choose_threshold(*part) for part in parts if len(part[1]) >= MIN_DIGITS)
    return TrainedModel(network.cpu().eval(), temperature, threshold, epochs)


def choose_threshold(logits: Tensor, labels: Tensor) -> float:
    """Return the confidence below which MAX_UNCERTAIN_CORRECT_RATE of the correct predictions lie.

    logits: calibrated, float32 [n, 10]; labels: int64 [n]. A higher threshold leaves fewer
    confident errors, but makes more correct predictions uncertain.
    """
    confidences, predicted = F.softmax(logits, dim=1).max(dim=1)  # [n] each
    return float(confidences[predicted == labels].quantile(MAX_UNCERTAIN_CORRECT_RATE))


def train_one_epoch(
    network: Network,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler,
    digits: Digits,
    settings: Settings,
) -> tuple[float, float]:
    """Train on every image once, in random order; return the mean loss and the digits' accuracy.

    Outliers are trained towards equal probabilities (outlier exposure, Hendrycks et al. 2019) and
    do not count towards the accuracy.
    """
    device = digits.labels.device
    targets = soft_targets(settings.label_smoothing).to(device)  # [11, 10]
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device))
    loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    network.train()
    for batch in torch.randperm(len(digits), device=device).split(settings.batch_size):
        pixels, labels = digits.pixels[batch], digits.labels[batch]  # uint8 [b, 28, 28], [b]
        images = random_affine(to_images(pixels), settings.affine_strength)  # [b, 1, 28, 28]
        images = images.contiguous(memory_format=torch.channels_last)
        with autocast:
            logits = network(images).float()  # [b, 10]
        loss = F.cross_entropy(logits, targets[labels])  # []
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        loss_sum += loss.detach() * len(batch)
        correct += (logits.argmax(dim=1) == labels).sum()
    return float(loss_sum) / len(digits), float(correct) / int((digits.labels != OUTLIER).sum())


def soft_targets(smoothing: float) -> Tensor:
    """Return a row of target probabilities for each label, float32 [11, 10].

    The last row, which the label OUTLIER (-1) selects, gives every digit the same probability.
    """
    digits = torch.eye(10) * (1 - smoothing) + smoothing / 10
    return torch.cat((digits, torch.full((1, 10), 0.1)))


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware computes in bfloat16, which is twice as fast as float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def to_images(pixels: Tensor) -> Tensor:
    """Convert pixels, uint8 [n, 28, 28], to the network's input, float32 [n, 1, 28, 28]."""
    return pixels.unsqueeze(1).float() / 255


@torch.no_grad()
def predict_logits(network: Network, digits: Digits) -> Tensor:
    """Return the network's logits, float32 [n, 10]."""
    network.eval()
    batches = digits.pixels.split(EVALUATION_BATCH_SIZE)
    return torch.cat([network(to_images(pixels)) for pixels in batches])


def evaluate_accuracy(network: Network, digits: Digits) -> float:
    """Return the share of digits that the network classifies correctly."""
    predicted = predict_logits(network, digits).argmax(dim=1)  # [n]
    return float((predicted == digits.labels).float().mean())


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature that minimizes the cross-entropy.

    logits: float32 [n, 10]; labels: int64 [n].
    Source: temperature scaling, Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    temperatures = torch.linspace(0.3, 3.0, 271)
    losses = [F.cross_entropy(logits / float(temperature), labels) for temperature in temperatures]
    return float(temperatures[int(torch.stack(losses).argmin())])
