"""The loop, what a reader can replace in it, and going on bit for bit after any stop."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from made_up import Small, data, same_weights
from torch import nn

from dermai_utils import checkpoints, files, recipe, runs, source, training
from dermai_utils.basics import UserError

FEW = dict(epochs=3, batch_size=8, learning_rate=0.01, device="cpu")
FIRST = FEW | {"first_size": 8}
HERE = Path(__file__).parent


def state(folder):
    return runs.load_checkpoint(Path(folder) / "best.pt")["model"]


def same(a, b):
    """Whether two runs ended in equal files, bit for bit, but for the seconds of an epoch."""
    one, two = (files.read_table(f / "history.csv").drop(columns="seconds") for f in (a, b))
    tables = ("predictions.csv", "table.csv")
    equal = [(a / name).read_bytes() == (b / name).read_bytes() for name in tables]
    return same_weights(state(a), state(b)) and one.equals(two) and all(equal)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    training.train(*data(extra=14), Small(), folder, **FIRST)
    return folder


def step(run, images, labels):
    run.step(run.loss(run.net(images), labels))


def by_hand(folder, body=step, validated=True, **options):
    """The loop as notebook 04 writes it. body: of the inner loop; what it returns may break it."""
    with training.Training(folder, *data(extra=14), Small(), **FIRST | options) as run:
        for _ in run.epochs():
            for images, labels in run.batches():
                if body(run, images, labels):
                    break
            if validated:
                run.validate()
    return run


class Killed(Exception):
    pass


def stopped(folder, epoch, batch):
    """Begin a run that ends with an error in the loop's body."""

    def body(run, images, labels):
        step(run, images, labels)
        if (run.epoch, run.batch) == (epoch, batch):
            raise Killed

    with pytest.raises(Killed):
        by_hand(folder, body)


def test_the_loop_by_hand_and_train_give_the_same_weights(whole, tmp_path):
    by_hand(tmp_path / "hand")
    assert same(whole, tmp_path / "hand")


# Stops.

WAYS = ("Ctrl-C", "error", "break")
STOPS = st.lists(st.integers(1, 14), min_size=1, max_size=3)
QUICK = dict(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(max_examples=8, **QUICK)
@given(stops=STOPS, minutes=st.sampled_from([0.0, 10.0]), way=st.sampled_from(WAYS))
@example(stops=[7], minutes=10.0, way="break")
def test_a_run_goes_on_bit_for_bit_wherever_it_was_stopped(
    whole, tmp_path_factory, stops, minutes, way
):
    """By Ctrl-C, which waits for the batch to end, by an error in the reader's own body, or by
    leaving the loop."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    for stop in stops:
        counted = iter(range(1, 1000))

        def body(run, images, labels, counted=counted, stop=stop):
            step(run, images, labels)
            if next(counted) != stop:
                return False
            if way == "error":
                raise Killed
            if way == "Ctrl-C":
                os.kill(os.getpid(), signal.SIGINT)
            return way == "break"

        try:
            by_hand(folder, body, checkpoint_minutes=minutes)
        except (Killed, training.Interrupted):
            torch.rand(3)  # other work in the same kernel
    by_hand(folder)
    assert same(whole, folder)
    assert not list(folder.glob("last*"))


def test_a_killed_process_leaves_a_run_that_goes_on(whole, tmp_path):
    script = """if True:
        import os, sys
        sys.path.insert(0, sys.argv[2])
        import test_training
        steps = iter(range(1000))
        def body(run, images, labels):
            test_training.step(run, images, labels)
            if next(steps) == 9:
                os.kill(os.getpid(), 9)
        test_training.by_hand(sys.argv[1], body, checkpoint_minutes=0.0)
    """
    command = [sys.executable, "-c", script, tmp_path / "run", HERE]
    assert subprocess.run(command, capture_output=True).returncode == -9
    by_hand(tmp_path / "run")
    assert same(whole, tmp_path / "run")


def test_what_the_block_changes_is_put_back(tmp_path):
    def drawn():
        return torch.rand(1), np.random.rand(), random.random()

    def seeded():
        torch.manual_seed(3), np.random.seed(3), random.seed(3)

    seeded()
    expected, handler = drawn(), signal.getsignal(signal.SIGINT)
    torch.set_num_threads(2)
    seeded()
    by_hand(tmp_path / "run", epochs=1)
    assert drawn() == expected
    assert torch.get_num_threads() == 2 and signal.getsignal(signal.SIGINT) is handler


def test_a_disk_that_refuses_stops_no_training_and_the_checkpoint_waits(
    whole, tmp_path, monkeypatch
):
    """Drive vanishes after the first epoch, and is back for the end."""
    write = checkpoints.save_checkpoint

    def refuse(path, state):
        if path.name == "last.pt" and state["epoch"] == 1 and tmp_path in path.parents:
            raise OSError(107, "Transport endpoint is not connected")
        write(path, state)

    monkeypatch.setattr(checkpoints, "save_checkpoint", refuse)
    stopped(tmp_path / "run", 1, 2)
    assert not (tmp_path / "run" / "last.pt").exists()
    run = by_hand(tmp_path / "run")
    assert same(whole, tmp_path / "run")
    assert not checkpoints.scratch(run).exists() or not list(checkpoints.scratch(run).iterdir())


def test_a_broken_checkpoint_is_left_for_the_one_before(whole, tmp_path):
    stopped(tmp_path / "run", 2, 1)
    path = tmp_path / "run" / "last.pt"
    path.write_bytes(path.read_bytes()[:-40])
    by_hand(tmp_path / "run")
    assert same(whole, tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_run_before_a_checkpoint_holds_it(tmp_path):
    def loss(logits, labels):
        return logits.sum() * float("nan")

    for validated in (True, False):
        folder = tmp_path / str(validated)
        with pytest.raises(UserError, match="--run-name NAME --learning-rate"):
            by_hand(folder, validated=validated, loss=loss)
        first = runs.load_checkpoint(folder / "last.pt")
        assert (first["epoch"], first["batch"]) == (0, 0)
        assert all(torch.isfinite(x).all() for x in first["model"].values())


# What a reader replaces.


class Focal(nn.Module):
    """Lin et al. 2017, arXiv 1708.02002."""

    def __init__(self, gamma=2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, logits, labels):
        loss = nn.functional.cross_entropy(logits, labels, reduction="none")
        return ((1 - torch.exp(-loss)) ** self.gamma * loss).mean()


def noisy(images, size):
    """Draws from Python's, numpy's and torch's generators."""
    shift = random.random() + np.random.rand() + torch.rand(len(images), 3, size, size)
    return (images[:, :, :size, :size] / 255 + 0.1 * shift).clamp(0, 1)


def flat(optimizer, steps):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


OWN = dict(loss=Focal(), augment=noisy, optimizer=sgd, schedule=flat, sampler=recipe.balanced)


def test_parts_of_ones_own_are_used_stored_and_repeat_after_a_stop(tmp_path):
    """So does what the body of the loop draws, here for mixing images."""

    shares = []

    def mixed(folder, last=(9, 9)):
        def body(run, images, labels):
            shares.append(share := np.random.beta(1, 1) * random.random())
            step(run, share * images + (1 - share) * images[torch.randperm(len(images))], labels)
            if (run.epoch, run.batch) == last:
                raise Killed

        by_hand(tmp_path / folder, body, **OWN | {"loss": Focal()})

    mixed("whole")
    assert len(shares) > 10 and len({*shares}) == len(shares)  # each batch has its own
    with pytest.raises(Killed):
        mixed("run", last=(1, 2))
    mixed("run")
    assert same(tmp_path / "whole", tmp_path / "run")
    stored = runs.open_run(tmp_path / "run", Small()).settings
    names = {"loss": "Focal", "augment": "noisy", "optimizer": "sgd", "schedule": "flat"}
    assert {name: stored[name] for name in names} == names and stored["network"] == "Small"
    with pytest.raises(UserError, match="the code or the values of loss changed"):
        by_hand(tmp_path / "run", **OWN | {"loss": Focal(3.0)})


def test_going_on_with_other_parts_settings_or_data_names_what_differs(whole, tmp_path):
    def refused(*place, **changed):
        with pytest.raises(UserError) as caught:
            training.train(*place, whole, **FIRST | changed)
        assert "--run-name" in str(caught.value) and "\n" not in str(caught.value)
        return str(caught.value)

    dataset, subset = data(extra=14)
    assert "epochs was 3, is 4" in refused(dataset, subset, Small(), epochs=4)
    assert "loss was the standard one, is Focal" in refused(dataset, subset, Small(), loss=Focal())
    said = refused(dataset, subset, Small(), augment=noisy)
    assert "augment was the standard one, is noisy" in said
    moved = subset.mask(subset.index == 2, "val")
    assert "another subset: 1" in refused(dataset, moved, Small())
    dataset.table.loc[3, "label"] = "DF"
    assert "another label: 1" in refused(dataset, subset, Small())


def test_another_line_of_code_is_another_loss_and_a_comment_is_not(tmp_path):
    plain = "def loss(logits, labels):\n    return logits.logsumexp(1).mean()\n"
    texts = [plain, plain.replace(":\n", ":  # a comment\n\n"), plain.replace("mean", "sum")]
    prints = []
    for k, text in enumerate(texts):
        (tmp_path / f"loss_{k}.py").write_text(text)
        space = {}
        exec(compile(text, str(tmp_path / f"loss_{k}.py"), "exec"), space)
        prints.append(source.fingerprint(space["loss"]))
    assert prints[0] == prints[1] != prints[2]


def test_a_network_that_was_trained_before_is_refused(tmp_path):
    net = Small()
    training.train(*data(), net, tmp_path / "first", **FEW)
    with pytest.raises(UserError, match="build it again"):
        training.train(*data(), net, tmp_path / "second", **FEW)
    assert not (tmp_path / "second" / "settings.json").exists()


def test_two_processes_end_in_the_weights_of_one(tmp_path):
    """With class weights, extra sources and batches that two processes share unevenly."""
    script = tmp_path / "script.py"
    script.write_text(f"""if True:
        import sys
        sys.path[:0] = [{str(HERE)!r}]
        import torch
        from made_up import Small, data
        from dermai_utils import training
        net = Small()
        net.drop.p = 0.0  # each process draws its own
        net.norm = torch.nn.Identity()  # its statistics are those of each process's share
        run = training.train(*data(extra=14), net, sys.argv[1], epochs=2, batch_size=9,
                             learning_rate=0.01, device="cpu", imbalance="class_weights")
        print("processes:", run.accelerator.num_processes)
    """)
    # what `accelerate launch` starts on GPUs; on a CPU it asks for MPI
    launch = "-m torch.distributed.run --standalone --nproc-per-node 2".split()
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    for words, name in (([], "one"), (launch, "two")):
        command = [sys.executable, *words, script, tmp_path / name]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert f"processes: {1 + (name == 'two')}" in done.stdout
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


# The recipe.


LABELS = np.array([0] * 6 + [1] * 3 + [2])


def test_class_weights_are_the_losss_and_phased_in():
    weights = recipe.class_weights(LABELS)
    assert np.allclose(weights[:3] * [6, 3, 1], 10 / 3) and (weights[3:] == 0).all()
    logits, truth = torch.randn(5, 7), torch.tensor([0, 1, 2, 1, 0])
    loss = recipe.CrossEntropy(LABELS, "class_weights")
    expected = nn.CrossEntropyLoss(torch.from_numpy(weights))(logits, truth)
    assert torch.allclose(loss(logits, truth), expected)
    loss.phase = 0.0
    assert torch.allclose(loss(logits, truth), nn.CrossEntropyLoss()(logits, truth))
    assert [recipe.phase(x) for x in (0, 0.35, 0.5, 0.65, 1)] == pytest.approx([0, 0, 0.5, 1, 1])


def test_training_phases_the_balancing_in(tmp_path):
    phases = []
    with training.Training(tmp_path, *data(), Small(), **FEW, imbalance="class_weights") as run:
        for _ in run.epochs():
            phases += [run.criterion.phase for _ in run.batches()]
    assert phases == [recipe.phase(k / len(phases)) for k in range(len(phases))]


def test_logit_adjustment_adds_the_logarithm_of_the_share():
    loss, logits = recipe.CrossEntropy(LABELS, "logit_adjustment"), torch.randn(4, 7)
    share = torch.tensor([0.6, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1])  # an absent class counts as seen once
    expected = nn.CrossEntropyLoss()(logits + share.log(), torch.tensor([0, 1, 2, 0]))
    assert torch.allclose(loss(logits, torch.tensor([0, 1, 2, 0])), expected)


def test_weights_decay_and_biases_and_norms_do_not():
    """Without a gradient, AdamW takes rate x decay of a weight a step, and nothing else."""
    net = Small()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = recipe.adamw(net, 0.1, 3.0, 0.5)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    left = dict.fromkeys(before, 1.0) | {
        "first.weight": 1 - 0.1 * 0.5,
        "head.weight": 1 - 0.3 * 0.5,
    }
    for name, p in net.named_parameters():
        assert torch.allclose(p, left[name] * before[name]), name


def test_the_balanced_sampler_shows_each_class_equally_often():
    labels = np.repeat(np.arange(7), [700, 100, 100, 50, 30, 10, 10])
    shown = np.bincount(labels[recipe.balanced(labels, (0, 9), epochs=10)], minlength=7)
    assert (abs(shown / len(labels) - 1 / 7) < 0.04).all()
    assert sorted(recipe.balanced(labels, (0, 0), epochs=10)) == list(range(len(labels)))


def test_sources_share_the_batches_and_their_odds_are_taken_out():
    labels = np.array([0, 1] * 20 + [0] * 9 + [1] + [1] * 10)
    origins = [""] * 40 + ["BCN"] * 10 + ["MSK"] * 10
    mix = recipe.Mix(origins, labels, 10, 0.4)
    assert (mix.each, mix.of_home, mix.batch, mix.steps) == (2, 6, 10, 6)
    odds = mix.log_odds(np.arange(40))
    assert odds[0].tolist() == [0] * 7
    assert odds[1, :2] == pytest.approx(np.log([0.9 / 0.5, 0.1 / 0.5]), abs=1e-5)
    positions = [mix.positions(recipe.shuffled(mix.home, (0, e)), 0, e) for e in range(5)]
    for shown in positions:
        sources = mix.source[shown]
        assert ((sources == 1).sum(1) == 2).all() and ((sources == 2).sum(1) == 2).all()
        assert len(set(shown[sources == 0])) == 36
    of_bcn = np.bincount(np.concatenate(positions).ravel(), minlength=60)[40:50]
    assert of_bcn.tolist() == [6] * 10  # 5 epochs of 12 draws


@pytest.mark.parametrize("sampler, share", [(None, 0.1), (recipe.balanced, 0.5)])
def test_with_further_sources_the_learned_share_is_homes_as_the_sampler_shows_it(
    tmp_path, sampler, share
):
    """Constant logits make the loss of an epoch least where the classes' mean probabilities are
    their shares in it: so these logits are what a network without features learns."""
    dataset, subset = data(700, extra=200)
    rare = np.where(np.arange(700) < 500, np.arange(700) // 5 % 10 == 0, np.arange(700) % 2)
    dataset.table["label"] = np.where(rare, "MEL", "NV")
    options = dict(epochs=1, batch_size=20, extra_share=0.5, sampler=sampler, device="cpu")
    with training.Training(tmp_path, dataset, subset, Small(), **options) as run:
        for _ in run.epochs():
            shown = [(labels, run.log_odds) for _, labels in run.batches()]
        logits = torch.randn(len(shown[-1][0]), 7)  # of the last batch
        expected = nn.functional.cross_entropy(logits + shown[-1][1], shown[-1][0])
        assert torch.equal(run.loss(logits, shown[-1][0]), expected)
    labels, odds = (torch.cat(each) for each in zip(*shown, strict=True))
    learned = torch.tensor([share, 1 - share]).log()
    predicted = (learned + odds[:, :2]).softmax(1)[:, 0].mean().item()
    assert predicted == pytest.approx((labels == 0).float().mean().item(), abs=0.04)


def test_sizes_rise_from_the_first_one():
    sizes = [recipe.side(224, 144, epoch, 10) for epoch in range(8)]
    assert sizes == [144, 160, 176, 192, 192, 208, 224, 224]
    assert recipe.side(224, 0, 0, 10) == 224 == recipe.side(224, 256, 0, 10)


def test_frozen_layers_keep_weights_and_statistics(tmp_path):
    net, before = Small(), Small().state_dict()
    training.train(*data(), net, tmp_path / "run", **FEW, freeze="backbone", average=0.0)
    after = state(tmp_path / "run")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight", "head.bias"}


def test_the_average_is_the_weighted_sum_of_all_steps():
    net, average = nn.Linear(2, 1), nn.Linear(2, 1)
    average.load_state_dict(net.state_dict())
    expected = net.weight.detach().clone()
    for step in range(6):
        with torch.no_grad():
            net.weight += 1
        recipe.move_average(average, net, 0.5, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net.weight.detach()
    assert torch.allclose(average.weight, expected)
