"""What is written into pictures: names at objects, captions above panels."""

from PIL import Image, ImageDraw, ImageFont

from detengine.report.colours import DARK, GREY, WHITE, Colour


def _text_size(picture: Image.Image) -> float:
    return max(12, max(picture.size) / 50)


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def write_tag(picture: Image.Image, text: str, box: list[float], colour: Colour) -> None:
    """A tag in the object's colour that stands on the upper left corner of its box."""
    pen, font = ImageDraw.Draw(picture), _font(_text_size(picture))
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 8, bottom - top + 6
    x = min(max(0, box[0]), picture.width - width)
    y = min(max(0, box[1] - height), picture.height - height)
    pen.rounded_rectangle((x, y, x + width, y + height), 3, fill=colour)
    red, green, blue = colour
    is_bright = 0.3 * red + 0.59 * green + 0.11 * blue > 140
    pen.text((x + 4 - left, y + 3 - top), text, font=font, fill=DARK if is_bright else WHITE)


def write_on_mask(picture: Image.Image, text: str, box: list[float]) -> None:
    """Haloed text in the middle of a mask, or above one that it would hide."""
    pen, font = ImageDraw.Draw(picture), _font(_text_size(picture))
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left, bottom - top
    x, y = (box[0] + box[2] - width) / 2, (box[1] + box[3] - height) / 2
    if width > 0.8 * (box[2] - box[0]) or height > 0.6 * (box[3] - box[1]):
        y = box[1] - height - 4
    x = min(max(3, x), picture.width - width - 3)
    y = min(max(3, y), picture.height - height - 3)
    pen.text((x - left, y - top), text, font=font, fill=WHITE, stroke_width=1, stroke_fill=DARK)


def side_by_side(panels: list[tuple[Image.Image, str, str]]) -> Image.Image:
    """Panels of one size, each with a caption above and a remark beside it, on white."""
    width, height = panels[0][0].size
    gap = max(16, width // 30)
    font, small = _font(max(18, width / 26)), _font(max(14, width / 36))
    header = round(2.6 * max(18, width / 26))
    sheet = Image.new("RGB", (gap + (width + gap) * len(panels), header + height + gap), WHITE)
    pen = ImageDraw.Draw(sheet)
    for n, (panel, caption, remark) in enumerate(panels):
        x = gap + n * (width + gap)
        sheet.paste(panel, (x, header))
        pen.text((x, header / 2), caption, font=font, fill=DARK, anchor="lm")
        pen.text((x + width, header / 2), remark, font=small, fill=GREY, anchor="rm")
    return sheet
