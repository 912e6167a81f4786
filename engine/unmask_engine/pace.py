"""How long a step takes, learnt from the steps that ran: seconds = fixed + per_token * tokens."""

from dataclasses import dataclass

_FORGET = 0.98  # what a step counts for after one more
_FIRST_GUESS = (2e-3, 5e-5)  # seconds, seconds a token; of the built-in model on two cores


@dataclass
class Pace:
    """Least squares over the recent steps, old ones fading. One observation already scales the first guess."""

    _n: float = 0.0
    _x: float = 0.0
    _y: float = 0.0
    _xx: float = 0.0
    _xy: float = 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        for name, value in (
            ("_n", 1.0),
            ("_x", tokens),
            ("_y", seconds),
            ("_xx", tokens**2),
            ("_xy", tokens * seconds),
        ):
            setattr(self, name, getattr(self, name) * _FORGET + value)

    def predict(self, tokens: int) -> float:
        """Seconds of a step of that many tokens."""
        fixed, per_token = self._line()
        return fixed + per_token * tokens

    @property
    def seconds_per_token(self) -> float:
        """Of one more token."""
        return self._line()[1]

    def _line(self) -> tuple[float, float]:
        fixed, per_token = _FIRST_GUESS
        if self._n == 0:
            return fixed, per_token
        spread = self._xx - self._x**2 / self._n
        if spread > 0.01 * self._xx:  # steps of different sizes have been seen
            slope = (self._xy - self._x * self._y / self._n) / spread
            if slope > 0:
                return max(0.0, (self._y - slope * self._x) / self._n), slope
        scale = self._y / (self._n * fixed + self._x * per_token)
        return fixed * scale, per_token * scale
