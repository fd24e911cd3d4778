"""What the tables measure: one pixel scale (0..1), two anchors, one control; angle errors; the published units."""

import torch
from torch.nn.functional import conv2d

import cvkernels.functional as F

LEARNED = 0.8  # a network has learned where its classification error is at most this share of a blind guess's
ROMECH = {  # what romech divides the pixels of each channel by, after taking the mean away
    "cifar10": (0.2470, 0.2435, 0.2616),
    "cifar100": (0.2675, 0.2565, 0.2761),
}
CONTROL = 0.5  # an attacker counts where it reaches this share of the mean-image RMSE on features in the open


def rmse(image, target):
    """Root of the mean squared error over every pixel of every image, 0..1."""
    return (image - target).square().mean().sqrt().item()


def mae(image, target):
    """Mean absolute error, 0..1."""
    return (image - target).abs().mean().item()


def psnr(image, target):
    """Peak signal-to-noise ratio in dB for pixels 0..1, the mean over the images `[N, C, H, W]`; infinite where one
    is exact."""
    error = (image - target).square().flatten(1).mean(1)
    return (-10 * error.log10()).mean().item()


def ssim(image, target):
    """Structural similarity (Wang et al. 2004) of `[N, C, H, W]` in 0..1: 11x11 Gaussian window of σ 1.5, no
    padding."""
    channels = image.shape[1]
    x = torch.arange(11, dtype=image.dtype, device=image.device) - 5
    g = torch.exp(-(x**2) / (2 * 1.5**2))
    window = (torch.outer(g, g) / g.sum() ** 2).expand(channels, 1, 11, 11)

    def mean(t):
        return conv2d(t, window, groups=channels)

    c1, c2 = 0.01**2, 0.03**2
    mx, my = mean(image), mean(target)
    vx, vy, cov = mean(image**2) - mx**2, mean(target**2) - my**2, mean(image * target) - mx * my
    return (((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean().item()


def image_errors(image, target):
    """All four, by name."""
    return {
        "rmse": rmse(image, target),
        "mae": mae(image, target),
        "psnr": psnr(image, target),
        "ssim": ssim(image, target),
    }


def together(parts):
    """The errors of a set from those of its parts, (how many images, errors by name) each."""
    images = sum(n for n, _ in parts)
    found = {}
    for name in parts[0][1]:
        power = 2 if name in ("rmse", "paper") else 1  # a root of a mean
        found[name] = (sum(n * errors[name] ** power for n, errors in parts) / images) ** (1 / power)
    return found


def published_units(image, target, std=None):
    """The same reconstruction in the unit of each published table.

    Args:
        std: the standard deviation per channel that romech's pixels are divided by, `ROMECH`'s of a data set; None
            where it has no table for one.
    Returns:
        `paper`: RMSE on 0..1; `report`: MSE on -1..1, four times the squared RMSE; with `std` `romech`: MAE on
        standardised pixels.
    """
    units = {"paper": rmse(image, target), "report": 4 * rmse(image, target) ** 2}
    if std:
        per_channel = (image - target).abs().mean((0, 2, 3)).cpu()
        units["romech"] = (per_channel / torch.tensor(std)).mean().item()
    return units


def angle_errors(guess, theta):
    """Per sample, in radians: `raw` = |θ̂ - θ| as the angles stand in [0, 2π), and `circular`, the way round that is
    shorter."""
    raw = (guess - theta).abs()
    return {"raw": raw, "circular": torch.minimum(raw, 2 * torch.pi - raw)}


def control(open_rmse, mean_rmse):
    """The positive control: did this attacker, on the original network's features, reach half the mean-image RMSE?"""
    return open_rmse <= CONTROL * mean_rmse


def law_error(process, z, theta):
    """Largest |P(e^{iθ}z) - e^{iθ}P(z)| over the largest |P(z)|: 0 where rotating the input rotates the output.

    Args:
        z: planar `[N, 2, C, *]`.
        theta: `[N]`, radians, one angle per sample; a single one for all would hide faults.
    """
    with torch.no_grad():
        turned = F.rotate_phase(process(z), theta)
        difference = process(F.rotate_phase(z, theta)) - turned
    # features of zeros come out as zeros: the law holds there, and nothing is divided by nothing
    size = turned.norm(dim=1).max().clamp_min(torch.finfo(turned.dtype).tiny)
    return (difference.norm(dim=1).max() / size).item()
