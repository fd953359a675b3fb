"""An engine that needs no backend's own means: Adam on the log joint, which every density has."""

from dataclasses import dataclass

import numpy as np

from promptdyn.inference import Engine, Result


@dataclass(frozen=True)
class Adam(Engine):
    """Adam to a mode, its rate falling to nothing over the run; settings are fields."""

    num_steps: int = 400
    learning_rate: float = 0.1

    name = "adam"

    def run(self, density, seed, report):
        values = density.unconstrain(density.program.start)
        mean = {site: np.zeros_like(value) for site, value in values.items()}
        square = {site: np.zeros_like(value) for site, value in values.items()}
        trace = []
        for step in range(1, self.num_steps + 1):
            joint, slopes = density.joint(values)
            trace.append(joint)
            report(step, self.num_steps, {"log joint": joint})
            rate = self.learning_rate * (1 - step / self.num_steps)
            for site, slope in slopes.items():
                mean[site] = 0.9 * mean[site] + 0.1 * slope
                square[site] = 0.99 * square[site] + 0.01 * slope**2
                scaled = mean[site] / (1 - 0.9**step) / np.sqrt(square[site] / (1 - 0.99**step) + 1e-12)
                values[site] = values[site] + rate * scaled
        gain = trace[-1] - trace[-2]
        return Result(
            density.constrain(values),
            np.array(trace),
            gain < 0.01,
            f"the last step gained {gain:.2g} nats",
            {"gain": gain},
        )
