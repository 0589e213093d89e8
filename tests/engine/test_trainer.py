"""The loop: what it prints, saves, skips and leaves alone."""

import logging
import re
import time

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from detengine.engine.nonfinite import NonFiniteError
from detengine.engine.trainer import do_train, make_skipping_safe, reduce_loss_dict, train_step
from detengine.solver.ema import ModelEMA
from detengine.solver.precision import Precision
from detengine.structures.batch import Batch

CPU = torch.device("cpu")


@pytest.fixture
def run(detector, make_sgd, make_checkpointer):
    """Train `detector` with a loader; returns what the run was made of."""

    def start(loader, model=detector, iteration=0, folder="run", period=1000, **options):
        optimizer = make_sgd(model)
        scheduler = LambdaLR(optimizer, lambda step: 0.9**step)
        checkpointer = make_checkpointer(model, optimizer, scheduler, folder)
        arguments = {"iteration": iteration}
        if iteration:
            arguments = checkpointer.resume()
        do_train(
            model, loader, optimizer, scheduler, checkpointer, CPU, period, arguments, **options
        )
        return arguments

    return start


class RecordingSink:
    def __init__(self) -> None:
        self.rows = []

    def write(self, iteration, metrics) -> None:
        self.rows.append((iteration, dict(metrics)))

    def close(self) -> None:
        pass


def test_a_line_is_logged_every_20_iterations_and_at_the_last(run, make_loader, caplog):
    with caplog.at_level(logging.INFO, logger="detengine"):
        run(make_loader(45))
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("eta")]
    assert [re.search(r"iter: (\d+)", line).group(1) for line in lines] == ["20", "40", "45"]
    meter = r"\d+\.\d{4} \(\d+\.\d{4}\)"
    pattern = (
        rf"eta: 0:00:00  iter: 20  loss: {meter}  loss_first: {meter}  loss_second: {meter}  "
        rf"time: {meter}  data: {meter}  lr: 0\.013509  max mem: \d+"
    )
    assert re.fullmatch(pattern, lines[0])
    assert re.search(r"Total training time: 0:00:0\d \(0\.\d{4} s / it\)", caplog.text)


def test_the_logged_lr_is_the_one_in_force_in_that_iteration(run, make_loader):
    sink = RecordingSink()
    run(make_loader(20), sinks=[sink])
    assert sink.rows[0][0] == 20
    assert sink.rows[0][1]["train/lr"] == pytest.approx(0.1 * 0.9**19)
    assert set(sink.rows[0][1]) >= {"train/loss", "train/loss_first", "train/time", "train/data"}


def test_checkpoints_come_every_period_and_at_the_end(run, make_loader, tmp_path):
    run(make_loader(7), period=3)
    names = sorted(path.name for path in (tmp_path / "run").glob("*.pth"))
    assert names == ["model_0000003.pth", "model_0000006.pth", "model_final.pth"]


def test_a_run_in_two_parts_ends_with_the_weights_of_an_unbroken_one(run, make_loader, detector):
    start = {name: value.clone() for name, value in detector.state_dict().items()}
    run(make_loader(12), folder="unbroken", seed=3)
    unbroken = {name: value.clone() for name, value in detector.state_dict().items()}
    detector.load_state_dict(start)
    answers = iter([False] * 4 + [True])
    arguments = run(make_loader(12), should_stop=lambda: next(answers), seed=3)
    assert arguments["iteration"] == 5
    run(make_loader(12, start=5), iteration=5, seed=3)
    for name, value in detector.state_dict().items():
        assert torch.equal(value, unbroken[name])


def test_two_micro_batches_of_two_step_like_one_batch_of_four(detector, make_loader, make_sgd):
    steps = {}
    start = {name: value.clone() for name, value in detector.state_dict().items()}
    for count, size in ((2, 2), (1, 4)):
        detector.load_state_dict(start)
        optimizer = make_sgd(detector)
        batches = list(make_loader(count, size))
        scheduler = LambdaLR(optimizer, lambda _: 1.0)
        result = train_step(detector, batches, optimizer, scheduler, CPU, Precision())
        steps[count] = [result.losses["loss"], *(p.detach().clone() for p in detector.parameters())]
    for split, whole in zip(steps[2], steps[1], strict=True):
        torch.testing.assert_close(split, whole)


def test_a_window_that_would_be_partial_is_refused_before_training(run, make_loader):
    with pytest.raises(ValueError, match=r"accumulate is 2, but the loader has 5 batches"):
        run(make_loader(5), accumulate=2)


def test_a_loader_that_ends_before_its_length_is_an_error_and_no_end(run, make_loader):
    class Short:
        def __len__(self) -> int:
            return 6

        def __iter__(self):
            return iter(list(make_loader(3)))

    for accumulate, given in ((1, 3), (2, 3)):
        with pytest.raises(RuntimeError, match=f"the data loader ended after {given} batches, in"):
            run(Short(), accumulate=accumulate, folder=f"run{accumulate}")


def test_each_modules_mode_returns_even_after_an_exception(run, make_loader, detector):
    detector.eval()
    detector.dropout.train()

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make_loader(3), should_stop=fail)
    assert not detector.training
    assert detector.dropout.training


def test_a_non_finite_first_step_leaves_no_trace_and_names_its_images(run, make_loader, detector):
    before = [parameter.detach().clone() for parameter in detector.parameters()]
    original = detector.forward

    def forward(images, targets=None):
        losses = original(images, targets)
        losses["loss_first"] = losses["loss_first"] * float("nan")
        return losses

    detector.forward = forward
    message = r"iteration 1, rank 0, image ids \[0, 1\], lr 0.1: loss nan, loss_first nan"
    with pytest.raises(NonFiniteError, match=message):
        run(make_loader(40))
    for parameter, value in zip(detector.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


def test_momentum_is_zero_after_a_skipped_first_step(detector, make_loader, make_sgd):
    optimizer = make_sgd(detector)
    make_skipping_safe(optimizer)
    batch = next(iter(make_loader(1)))
    detector.weight.data.fill_(float("inf"))
    schedule = LambdaLR(optimizer, lambda _: 1.0)
    step = train_step(detector, [batch], optimizer, schedule, CPU, Precision())
    assert step.found_inf.item() == 1
    assert all(not state["momentum_buffer"].any() for state in optimizer.state.values())


def test_no_checkpoint_is_saved_after_a_non_finite_step(run, make_loader, detector, tmp_path):
    detector.weight.data.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        run(make_loader(10), period=2)
    assert not list((tmp_path / "run").glob("model_*"))


def test_non_finite_steps_are_skipped_where_that_is_asked_for(run, make_loader, detector, caplog):
    original = detector.forward
    calls = iter(range(100))

    def forward(images, targets=None):
        losses = original(images, targets)
        factor = float("inf") if next(calls) == 2 else 1.0
        return {name: loss * factor for name, loss in losses.items()}

    detector.forward = forward
    with caplog.at_level(logging.WARNING, logger="detengine"):
        run(make_loader(6), on_nonfinite="skip")
    assert "step skipped: iteration 3" in caplog.text
    assert all(torch.isfinite(parameter).all() for parameter in detector.parameters())


def test_an_ordinary_iteration_reads_nothing_from_the_device(run, make_loader, host_reads):
    counts = []
    for length in (5, 15):  # with what the log line, the checkpoint and the end read, once each
        host_reads.counts.clear()
        with host_reads:
            run(make_loader(length), folder=str(length), clip_norm=1.0, seed=0)
        counts.append(dict(host_reads.counts))
    assert counts[0] == counts[1] != {}


def test_the_randomness_of_an_iteration_depends_on_seed_and_iteration_alone(run, make_loader):
    drawn = []
    run(make_loader(3), seed=5, should_stop=lambda: drawn.append(torch.rand(2)) is not None)
    torch.rand(17)
    run(make_loader(3), seed=5, should_stop=lambda: drawn.append(torch.rand(2)) is not None)
    first, second = drawn[:3], drawn[3:]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])


def test_without_a_seed_the_generator_is_left_alone(run, make_loader):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    run(make_loader(3))
    assert torch.equal(torch.rand(1), expected)


def test_the_final_checkpoint_is_there_before_the_final_evaluation(run, make_loader, tmp_path):
    def fail():
        raise RuntimeError("evaluation")

    with pytest.raises(RuntimeError, match="evaluation"):
        run(make_loader(3), evaluate=fail)
    assert (tmp_path / "run" / "model_final.pth").is_file()


def test_the_total_time_is_that_of_the_training_alone(run, make_loader, caplog):
    with caplog.at_level(logging.INFO, logger="detengine"):
        run(make_loader(2), evaluate=lambda: time.sleep(1.6) or {}, eval_period=1)
    assert "Total training time: 0:00:00 " in caplog.text


def test_evaluation_reaches_the_sinks_every_period_and_at_the_end(run, make_loader):
    sink = RecordingSink()
    run(
        make_loader(5), sinks=[sink], evaluate=lambda: {"val/a/bbox/AP": 0.5},
        eval_period=2,
    )  # fmt: skip
    assert [i for i, row in sink.rows if "val/a/bbox/AP" in row] == [2, 4, 5]


def test_ema_off_changes_no_bit_and_on_follows_behind(run, make_loader, detector):
    start = {name: value.clone() for name, value in detector.state_dict().items()}
    run(make_loader(5), seed=0)
    plain = detector.weight.detach().clone()
    detector.load_state_dict(start)
    ema = ModelEMA(detector, decay=0.9)
    run(make_loader(5), seed=0, ema=ema)
    assert torch.equal(detector.weight, plain)
    with ema.applied():
        assert not torch.equal(detector.weight, plain)


def test_a_plain_tuple_is_a_batch_too(detector, make_sgd, make_loader):
    optimizer = make_sgd(detector)
    batch = tuple(next(iter(make_loader(1))))
    step = train_step(
        detector, [Batch(*batch)], optimizer, LambdaLR(optimizer, lambda _: 1.0), CPU, Precision()
    )
    assert list(step.losses) == ["loss", "loss_first", "loss_second"]


def test_losses_of_a_single_process_are_their_own_mean():
    losses = {"loss_first": torch.tensor(2.0)}
    assert reduce_loss_dict(losses)["loss_first"].item() == 2.0
