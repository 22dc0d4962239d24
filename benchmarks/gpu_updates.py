"""Updates a second of the library's learners on a device, by a few updates of the named benchmarks."""

from __future__ import annotations

from measure import Row, command_line, publish

from replastic import benchmarks
from replastic.errors import ReplasticError
from replastic.training.speed import Trial


def measured(name: str, preset: str, device: str, updates: int) -> Row:
    """One benchmark; a row with the reason in place of a value where it cannot run here."""
    if name not in benchmarks.names():
        return Row(name, preset, 0.0, "/s", note="there is no such benchmark")
    presets = benchmarks.get(name)().presets
    chosen = preset if preset in presets else next(iter(presets))
    protocol = presets[chosen].protocol
    try:
        trial = Trial(protocol, protocol.task.open(device), device)
        trial.seconds(1)
        taken = trial.seconds(updates)
    except ReplasticError as error:
        return Row(name, chosen, 0.0, "/s", note=str(error))
    return Row(name, chosen, 1 / taken, "/s", note=f"{taken * 1e3:.3g} ms an update, {protocol.task.name}")


def main() -> None:
    """Print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--benchmarks", nargs="+", required=True)
    options = parser.parse_args()
    rows = [measured(name, options.preset, options.device, options.updates) for name in options.benchmarks]
    publish("Updates a second", rows, options.json, device=options.device)


if __name__ == "__main__":
    main()
