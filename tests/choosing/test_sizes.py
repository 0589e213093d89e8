from dataclasses import replace

import pytest

from detengine.choosing.sizes import choose_anchors, choose_ratios, choose_sizes
from detengine.choosing.survey import Survey

CELLS = Survey(
    images=200, scored_images=80, objects=2800, class_counts={"cell": 2800}, without_objects=0,
    most_objects=28, short_side=480, long_side=640, aspect=1.33, small=40, lower=80, median=100,
    large=160, ratios=(0.6, 1.6), masks=0, outlines=0.0, keypoints=0, has_sides=False,
)  # fmt: skip
CPU = {"least": 320, "most": 640, "wanted": 16, "may_crop": True}


def test_large_objects_are_seen_in_small_images() -> None:
    sizes = choose_sizes(CELLS, **CPU)
    assert (sizes.shorter, sizes.longer, sizes.crop) == (320, 544, 256)
    assert sizes.median == pytest.approx(100 * 320 / 480)


def test_small_objects_make_larger_images_but_never_more_than_twice_the_files() -> None:
    nuclei = replace(CELLS, short_side=256, long_side=256, aspect=1.0, small=8, lower=11)
    assert choose_sizes(nuclei, **CPU).shorter == 384
    specks = replace(nuclei, lower=2)
    assert choose_sizes(specks, **CPU).shorter == 512
    assert choose_sizes(replace(specks, short_side=2000), **CPU).shorter == 640


def test_objects_that_fill_a_crop_are_seen_whole() -> None:
    assert choose_sizes(replace(CELLS, large=450), **CPU).crop is None
    assert choose_sizes(CELLS, least=320, most=640, wanted=16, may_crop=False).crop is None


def test_long_images_keep_their_shorter_side() -> None:
    sizes = choose_sizes(replace(CELLS, aspect=2.5), **CPU)
    assert sizes.longer == 2.5 * sizes.shorter


def test_anchors_double_from_the_small_objects_to_beyond_the_large_ones() -> None:
    sizes = choose_sizes(CELLS, **CPU)
    strides, anchors = choose_anchors(sizes)
    assert strides == [8, 16, 32]
    assert anchors == [34, 68, 136]


def test_small_objects_have_a_level_of_stride_4_and_very_large_ones_64() -> None:
    sizes = choose_sizes(CELLS, **CPU)
    assert choose_anchors(replace(sizes, small=12))[0] == [4, 8, 16, 32]
    assert choose_anchors(replace(sizes, large=400))[0] == [8, 16, 32, 64]


def test_narrow_objects_have_anchors_of_their_shape() -> None:
    assert choose_ratios(CELLS) is None
    assert choose_ratios(replace(CELLS, ratios=(0.2, 1.5))) == [0.25, 0.5, 1.0, 2.0]
    assert choose_ratios(replace(CELLS, ratios=(0.5, 3.5))) == [0.5, 1.0, 2.0, 4.0]
