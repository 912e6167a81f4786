"""The presets of Omni-Diffusion as published. Source: decoding.md, Presets; prompts: golden `prompts`.

`bundles/omni-diffusion/bundle.json` carries them as JSON; a test holds the two equal.
"""

from typing import Final

from unmask_engine.preset import CanvasRule, Message, Pin, Preset, StepsRule

# An image answer is begin + 256 + end + im_end + newline. The reference leaves all of it to the model and repeats the
# last token of an answer that is too short; the pins leave exactly the 256 image positions open.
IMAGE_FRAME: Final = (
    Pin("begin_of_image", at=0, in_reference=False),
    Pin("end_of_image", at=-3, in_reference=False),
    Pin("im_end", at=-2, in_reference=False),
    Pin("newline", at=-1, in_reference=False),
)
# The paper says 0.25 N, the released code pins at int(0.2 N).
SPOKEN_ANSWER: Final = (Pin("begin_of_audio", at_fraction=0.2),)

OMNI_PRESETS: Final = (
    Preset(
        task="t2i",
        inputs=("text",),
        outputs=("image",),
        messages=(Message("user", "Generate an image based on the provided text description.\n{text}"),),
        canvas=CanvasRule(tokens=260),
        algorithm="entropy-penalty",
        repetition_penalty=1.2,
        position_penalty=2.0,
        pins=IMAGE_FRAME,
    ),
    Preset(
        task="s2i",
        inputs=("audio",),
        outputs=("image",),
        messages=(
            Message("system", "Please generate an image based on the input audio."),
            Message("user", "\n<|audio|>"),
        ),
        canvas=CanvasRule(tokens=260),
        algorithm="entropy-penalty",
        repetition_penalty=1.5,
        position_penalty=2.0,
        guidance=2.0,
        pins=IMAGE_FRAME,
    ),
    Preset(
        task="svqa",
        inputs=("audio", "image"),
        outputs=("text", "audio"),
        messages=(
            Message("system", "Please response the input audio based on the given image."),
            Message("user", "<|audio|>\n<|image|>"),
        ),
        canvas=CanvasRule(tokens=128),
        algorithm="entropy-penalty",
        repetition_penalty=1.2,
        pins=SPOKEN_ANSWER,
    ),
    Preset(
        task="sqa",
        inputs=("audio",),
        outputs=("text", "audio"),
        messages=(Message("system", "Please response the input audio."), Message("user", "\n<|audio|>")),
        canvas=CanvasRule(tokens=128),
        algorithm="entropy-penalty",
        repetition_penalty=1.2,
        pins=SPOKEN_ANSWER,
    ),
    Preset(
        task="vqa",
        inputs=("text", "image"),
        outputs=("text",),
        messages=(Message("user", "{text}\n<|image|>"),),
        canvas=CanvasRule(tokens=64),
    ),
    Preset(
        task="caption",
        inputs=("image",),
        outputs=("text",),
        messages=(Message("user", "Describe this image.\n<|image|>"),),  # the published code names no caption prompt
        canvas=CanvasRule(tokens=64),
    ),
    Preset(
        task="tts",
        inputs=("text",),
        outputs=("audio",),
        messages=(Message("user", "Convert the text to speech.\n{text}"),),
        canvas=CanvasRule(per_text_token=3.5, minimum=32),
        steps=StepsRule(fraction=0.5),
    ),
    Preset(
        task="asr",
        inputs=("audio",),
        outputs=("text",),
        messages=(Message("user", "Convert the speech to text.\n<|audio|>"),),
        canvas=CanvasRule(per_prompt_token=0.2, minimum=16),
        steps=StepsRule(fraction=0.5),
    ),
)
