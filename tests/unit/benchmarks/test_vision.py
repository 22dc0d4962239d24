"""Vision benchmarks: the paper's protocol and tuned values, presets that share a folder, and what recipes leave."""

from dataclasses import asdict, replace

import pytest
import torch

from replastic import benchmarks, methods, networks, recipes
from replastic.experiments import vision
from replastic.experiments.spec import every_method
from replastic.interventions.plan import plan
from replastic.weights.module_store import ModuleStore
from support.small_runs import with_task

NAMES = ("vision_warm_start", "vision_continual", "vision_class_incremental")
CASES = [(name, data) for name in NAMES for data in benchmarks.get(name)().others]


def presets(name, data):
    return benchmarks.get(name)().on(data).presets


def options(preset, name):
    (spec,) = (text for text in preset.methods if text.partition(":")[0] == name)
    return asdict(methods.from_spec(spec))


def test_each_benchmark_has_the_pairs_of_the_paper():
    assert {name: set(benchmarks.get(name)().others) for name in NAMES} == {
        "vision_warm_start": {"cifar10", "cifar100", "tiny_imagenet"},
        "vision_continual": {"cifar10", "cifar100", "tiny_imagenet"},
        "vision_class_incremental": {"cifar100", "tiny_imagenet"},
    }


@pytest.mark.parametrize(("name", "data"), CASES)
def test_the_paper_preset_is_section_3_of_the_specification(name, data):
    preset = presets(name, data)["paper"]
    config = preset.protocol.config()
    assert config["data"] == data
    assert preset.seeds == 3
    assert config["stream"] == {
        "vision_warm_start": {"type": "WarmStart", "ratio": 0.1, "first_epochs": 1000, "epochs": 100},
        "vision_continual": {"type": "Continual", "stages": 10, "epochs": 100},
        "vision_class_incremental": {"type": "ClassIncremental", "phases": 20, "epochs": 100},
    }[name] | {"access": "full", "replay": 0.0}
    assert (
        config["network"]
        == {
            "cifar10": {"type": "ResNet18", "width": 64, "blocks": (2, 2, 2, 2), "stem_stride": 1, "head": (512,)},
            "cifar100": {"type": "VitTiny", "patch": 4, "dim": 192, "depth": 12, "heads": 3, "mlp": 768},
            "tiny_imagenet": {
                "type": "Vgg16",
                "width": 64,
                "blocks": (2, 2, 3, 3, 3),
                "stem_stride": 1,
                "head": (1024, 1024),
            },
        }[data]
    )
    assert config["trainer"] == {
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "beta2": 0.999,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "batch_size": 256,
        "accumulate": 1,
        "most_warmup": 0,
        "schedule": "constant",
        "decay": 0.2,
        "final_rate": 0.0,
        "warmup": 0.1,
        "clip_norm": 0.5,
        "optimizer_policy": "reset_all",
        "evaluate_every": 1,
        "precision": "float32",
        "channels_last": False,
        "compiled": False,
    }
    assert config["recipe"] == ("paper-vit" if data == "cifar100" else "paper-cnn")
    assert config["methods_from"] == (1 if name == "vision_warm_start" else 0)


# alpha and lambda of dash, lambda of parseval (tables 6 to 8); l2_init, redo, cbp, snr (the authors' scripts).
TABLE = {
    ("vision_warm_start", "cifar10"): (0.3, 0.05, 1e-3, 1e-3, 0.5, 1e-4, 1000, 0.99),
    ("vision_warm_start", "cifar100"): (0.1, 0.05, 1e-5, 1e-3, 0.5, 1e-4, 100, 0.99),
    ("vision_warm_start", "tiny_imagenet"): (0.1, 0.05, 1e-3, 1e-3, 0.5, 1e-4, 1000, 0.92),
    ("vision_continual", "cifar10"): (0.3, 0.05, 1e-3, 1e-5, 0.05, 1e-5, 1000, 0.92),
    ("vision_continual", "cifar100"): (0.1, 0.05, 1e-5, 1e-4, 0.01, 1e-5, 1000, 0.96),
    ("vision_continual", "tiny_imagenet"): (0.1, 0.1, 1e-4, 1e-5, 0.01, 1e-5, 1000, 0.99),
    ("vision_class_incremental", "cifar100"): (0.3, 0.3, 1e-5, 1e-5, 0.01, 1e-5, 1000, 0.92),
    ("vision_class_incremental", "tiny_imagenet"): (0.3, 0.1, 1e-3, 1e-4, 0.05, 1e-4, 1000, 0.98),
}


@pytest.mark.parametrize(("name", "data"), CASES)
def test_the_paper_preset_runs_every_method_with_its_tuned_values(name, data):
    preset = presets(name, data)["paper"]
    assert {text.partition(":")[0] for text in preset.methods} == set(every_method())
    found = {kind: options(preset, kind) for kind in ("dash", "parseval", "l2_init", "redo", "cbp", "snr")}
    assert (
        found["dash"]["alpha"],
        found["dash"]["min_shrink"],
        found["parseval"]["strength"],
        found["l2_init"]["strength"],
        found["redo"]["dormancy_threshold"],
        found["cbp"]["replacement_rate"],
        found["cbp"]["maturity_threshold"],
        found["snr"]["percentile"],
    ) == TABLE[name, data]
    assert options(preset, "interpolation")["strength"] == 0.8
    assert options(preset, "muon")["lr"] == 1e-2


@pytest.mark.parametrize(("name", "data"), CASES)
def test_presets_name_methods_that_there_are_each_once_and_base_among_them(name, data):
    for preset in presets(name, data).values():
        specs = [methods.spec_of(methods.from_spec(text)) for text in preset.methods]
        assert len(specs) == len(set(specs))
        assert "base" in specs
        assert preset.protocol.task.data.partition(":")[0] == data
        assert preset.protocol.trainer.evaluate_every == 1


def test_presets_that_share_a_folder_share_its_protocol():
    sharing = 0
    for name, data in CASES:
        found = presets(name, data)
        for preset in found.values():
            if preset.folder:
                assert preset.protocol == found[preset.folder].protocol
                sharing += 1
    assert sharing == 6


def test_small_warm_start_has_every_method_on_cifar10_and_limited_differs_in_access_alone():
    found = presets("vision_warm_start", "cifar10")
    assert next(iter(found)) == "small"
    assert found["small"].seeds == 5
    assert {text.partition(":")[0] for text in found["small"].methods} == set(every_method())
    small, limited = found["small"].protocol, found["limited"].protocol
    assert limited == with_task(small, stream=replace(small.task.stream, access="limited"))
    assert found["limited"].methods == ("base", "fire", "ewc", "ewc+fire")


def resolved(network, classes, recipe, spec):
    """The settings with which `spec` rewrites each weight of a network under a recipe."""
    model = networks.build(network, (3, 32, 32), classes, seed=0)
    init = {name: value.clone() for name, value in model.state_dict().items()}
    run = methods.Run(store=ModuleStore(model), recipe=recipes.load(recipe), model=model, init=init)
    jobs = plan(methods.from_spec(spec), run).jobs
    return {job.entry.name: job.method for job in jobs}


@pytest.mark.parametrize(
    ("spec", "solver", "num_iters", "scale"),
    [
        ("fire", "newton_schulz", 10, "modular"),
        ("fire:solver=newton_schulz,num_iters=3", "newton_schulz", 3, "modular"),
        ("fire:solver=exact", "exact", None, "modular"),
        ("fire:solver=exact,scale=preserve", "exact", None, "preserve"),
        ("fire:solver=newton_schulz,num_iters=5,scale=modular_norm", "newton_schulz", 5, "modular_norm"),
        ("rescale", "newton_schulz", 10, "modular"),
    ],
)
def test_what_a_method_is_told_by_hand_goes_before_the_recipe_of_the_paper(spec, solver, num_iters, scale):
    chosen = resolved(vision.PAIRS["cifar10"].networks["smoke"], 10, "paper-cnn", spec)
    assert len(chosen) == 1 + 3 * 2 + 2 + 1 + 1  # stem, two convolutions a block, two shortcuts, hidden layer, head
    for method in chosen.values():
        assert (method.solver, method.scale) == (solver, scale)
        if num_iters:
            assert (method.num_iters, method.coefficients) == (num_iters, "cubic")


def test_the_targets_of_the_transformer_preset_are_what_they_say():
    preset = presets("vision_warm_start", "cifar100")["targets"]
    depth, network = 2, vision.PAIRS["cifar100"].networks["smoke"]
    expected = [
        {f"block{b}.attention.{m}.weight" for b in range(1, depth + 1) for m in ("q", "k")},
        {f"block{b}.attention.{m}.weight" for b in range(1, depth + 1) for m in ("q", "k", "v")},
        {f"block{b}.mlp.{m}.weight" for b in range(1, depth + 1) for m in ("fc1", "fc2")},
    ]
    fires = [text for text in preset.methods if text.startswith("fire")]
    found = [resolved(network, 100, "paper-vit", text) for text in fires]
    assert [set(chosen) for chosen in found[:3]] == expected
    assert set(found[3]) >= expected[1] | expected[2] | {"patches.weight"}
    assert not any(name.startswith("head") for name in found[3])
    for chosen in found:
        assert {(m.solver, m.num_iters, m.scale) for m in chosen.values()} == {("newton_schulz", 10, "modular")}


@pytest.mark.parametrize(
    ("given", "data", "network"),
    [
        ("", "cifar10:train=8000,test=4000", "ResNet18"),
        ("cifar10:test=50", "cifar10:train=8000,test=50", "ResNet18"),
        ("cifar10:source=/somewhere", "cifar10:train=8000,test=4000,source=/somewhere", "ResNet18"),
        ("cifar100", None, "VitTiny"),
        ("tiny_imagenet:train=4000", None, "Vgg16"),
        ("images:source=photos", "images:source=photos", "ResNet18"),
        ("digits", "digits", "ResNet18"),
    ],
)
def test_data_brings_the_settings_of_its_pair_or_runs_with_the_first_ones(given, data, network):
    protocol = benchmarks.get("vision_warm_start")().on(given).presets["small"].protocol
    assert protocol.task.architecture == network
    if data is not None:
        assert protocol.task.data == data
    else:
        assert protocol.task.data.startswith(given.partition(":")[0])


def test_another_network_brings_the_recipe_of_its_pair():
    protocol = benchmarks.get("vision_class_incremental")().presets["smoke"].protocol
    assert protocol.recipe == "paper-vit"
    own = {"vit_tiny": "paper-vit", "resnet18": "paper-cnn", "vgg16": "paper-cnn", "mlp": "default"}
    assert {name: protocol.with_network(name).recipe for name in own} == own
    asked = replace(protocol, recipe="all")
    assert asked.with_network("mlp").recipe == "all"
    assert asked.with_network("vit_tiny").recipe == "all"
    assert asked.with_network("resnet18").recipe == "paper-cnn"


def test_every_network_of_a_preset_fits_the_images_of_its_pair():
    for data, pair in vision.PAIRS.items():
        side, classes = {"cifar10": (32, 10), "cifar100": (32, 100), "tiny_imagenet": (64, 200)}[data]
        for size in ("small", "smoke"):
            model = networks.build(pair.networks[size], (3, side, side), classes, seed=0).eval()
            assert model(torch.zeros(2, 3, side, side)).shape == (2, classes)
