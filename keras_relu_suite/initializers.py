"""Initializers for networks of rectifiers."""

from __future__ import annotations

from typing import Any

import keras

from keras_relu_suite.errors import UsageError


@keras.saving.register_keras_serializable(package="keras_relu_suite")
class HeRectified(keras.initializers.VarianceScaling):
    """Weights of mean 0 and variance 2 / ((1 + a²)·fan) for a rectifier of negative slope a (He et al. 2015, eq. 15).

    With it, and biases of 0, every layer keeps E x² of its input (fan_in) or the variance of its gradient (fan_out).
    a = 0 is `he_normal` without its truncation, a = 1 LeCun's initialization of linear layers.

    Args:
        negative_slope: Float, the slope a on x < 0 of the activation that follows. Default: 0, ReLU. For
            `keras_relu_suite.layers.PReLU` as it starts: 0.25.
        mode: `"fan_in"`, `"fan_out"` or `"fan_avg"`. Default: `"fan_in"`.
        distribution: `"untruncated_normal"`, `"truncated_normal"` or `"uniform"`, all of that variance. Default:
            `"untruncated_normal"`, as in the paper.
        seed: Integer or None. Default: None.

    Raises:
        UsageError: `negative_slope` is not a number.
    """

    def __init__(
        self,
        negative_slope: float = 0.0,
        mode: str = "fan_in",
        distribution: str = "untruncated_normal",
        seed: int | None = None,
    ) -> None:
        if not isinstance(negative_slope, (int, float)) or isinstance(negative_slope, bool):
            raise UsageError(
                "negative_slope of HeRectified takes one number, the slope on x < 0 (0.25 for a fresh PReLU). "
                f"Received: negative_slope={negative_slope!r}"
            )
        self.negative_slope = float(negative_slope)
        scale = 2.0 / (1.0 + self.negative_slope**2)
        super().__init__(scale=scale, mode=mode, distribution=distribution, seed=seed)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        kept = {key: config[key] for key in ("mode", "distribution", "seed")}
        return {"negative_slope": self.negative_slope, **kept}


@keras.saving.register_keras_serializable(package="keras_relu_suite")
class PositiveBias(keras.initializers.RandomUniform):
    """Biases drawn uniformly from [low, high], both positive: every unit starts on the side where it learns.

    A unit of ReLU with bias b > 0 is on where w·x > −b, so that fewer units are born dead. The price is a mean that
    grows with depth: keep it small.

    Args:
        low, high: Floats, 0 ≤ low ≤ high, high > 0. Default: 0.01 and 0.1.
        seed: Integer or None. Default: None.

    Raises:
        UsageError: low is negative, above high, or high is 0.
    """

    def __init__(self, low: float = 0.01, high: float = 0.1, seed: int | None = None) -> None:
        if not 0 <= low <= high or high <= 0:
            raise UsageError(
                f"PositiveBias takes 0 ≤ low ≤ high and high > 0. Received: low={low!r}, high={high!r}"
            )
        self.low, self.high = float(low), float(high)
        super().__init__(minval=self.low, maxval=self.high, seed=seed)

    def get_config(self) -> dict[str, Any]:
        config = dict(super().get_config())
        return {"low": self.low, "high": self.high, "seed": config["seed"]}
