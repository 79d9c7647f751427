"""Which modules a pass calls, so that hooks on them run."""


def called_in(blocks, run):
    """The names of blocks, and of their layers with weights, that `run` does not call as modules."""
    modules = {name: module for name, module in blocks.named_modules() if name.isdigit() or _has_weights(module)}
    called = set()
    hooks = [module.register_forward_hook(lambda *_, name=name: called.add(name)) for name, module in modules.items()]
    run()
    for hook in hooks:
        hook.remove()
    return modules.keys() - called


def _has_weights(module):
    return not list(module.children()) and bool(list(module.parameters()))
