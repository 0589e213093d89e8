"""The names of maskrcnn_benchmark/config/paths_catalog.py: Caffe2 Detectron's weights."""

from difflib import get_close_matches

CATALOG = "catalog://"
SERVER = "https://dl.fbaipublicfiles.com/detectron"

_IMAGENET = {
    "MSRA/R-50": "ImageNetPretrained/MSRA/R-50.pkl",
    "MSRA/R-50-GN": "ImageNetPretrained/47261647/R-50-GN.pkl",
    "MSRA/R-101": "ImageNetPretrained/MSRA/R-101.pkl",
    "MSRA/R-101-GN": "ImageNetPretrained/47592356/R-101-GN.pkl",
    "FAIR/20171220/X-101-32x8d": "ImageNetPretrained/20171220/X-101-32x8d.pkl",
}
_DETECTRON = {
    "35857197/e2e_faster_rcnn_R-50-C4_1x": "01_33_49.iAX0mXvW",
    "35857345/e2e_faster_rcnn_R-50-FPN_1x": "01_36_30.cUF7QR7I",
    "35857890/e2e_faster_rcnn_R-101-FPN_1x": "01_38_50.sNxI7sX7",
    "36761737/e2e_faster_rcnn_X-101-32x8d-FPN_1x": "06_31_39.5MIHi1fZ",
    "35858791/e2e_mask_rcnn_R-50-C4_1x": "01_45_57.ZgkA7hPB",
    "35858933/e2e_mask_rcnn_R-50-FPN_1x": "01_48_14.DzEQe4wC",
    "35861795/e2e_mask_rcnn_R-101-FPN_1x": "02_31_37.KqyEK4tT",
    "36761843/e2e_mask_rcnn_X-101-32x8d-FPN_1x": "06_35_59.RZotkLKI",
    "37129812/e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x": "09_35_36.8pzTQKYK",
    "37697547/e2e_keypoint_rcnn_R-50-FPN_1x": "08_42_54.kdzV35ao",
}
"""The date and signature in each model's address."""

SHA256 = {
    f"{SERVER}/ImageNetPretrained/MSRA/R-50.pkl": (
        "c1f810370472bd7f9cd516f74b64bb5984aa78c7de1613e56e9f74f2ee01b4c4"
    ),
}
"""What is known of published files."""


def address_of(name: str) -> str:
    """The address of a catalog's name, which is without catalog://."""
    known = {f"ImageNetPretrained/{each}": f"{SERVER}/{path}" for each, path in _IMAGENET.items()}
    known |= {f"Caffe2Detectron/COCO/{each}": _detectron_address(each) for each in _DETECTRON}
    if name not in known:
        nearest = get_close_matches(name, known, 1, 0.0)[0]
        raise ValueError(
            f"{CATALOG}{name} is not in the catalog of weights; did you mean "
            f"{CATALOG}{nearest}? It has: {', '.join(known)}"
        )
    return known[name]


def _detectron_address(name: str) -> str:
    model_id, model_name = name.split("/")
    data = "keypoints_coco_2014" if "keypoint" in model_name else "coco_2014"
    return (
        f"{SERVER}/{model_id}/12_2017_baselines/{model_name}.yaml.{_DETECTRON[name]}/output/train/"
        f"{data}_train%3A{data}_valminusminival/generalized_rcnn/model_final.pkl"
    )
