"""What a script's `run` gets from a command line, without touching absl's global flags."""

from absl import flags


def parse(script, **given):
    values = flags.FlagValues()
    script.define_flags(values)
    values([script.__name__, *(f"--{name}={value}" for name, value in given.items())])
    return {name: values[name].value for name in values}
