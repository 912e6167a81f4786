"""The instructions of the tasks, as the paper's model is prompted (shared wording with the published presets)."""

T2I_INSTRUCTIONS = (
    "Generate an image based on the provided text description.",
    "Produce an image that matches the details in the given text.",
    "Generate a picture that aligns with the provided text.",
    "Create an artwork from the given text prompt.",
    "Translate the given description into an image.",
    "Produce a high-quality image from the provided description.",
    "Synthesize an image that matches the provided text description.",
    "Generate a picture that captures the essence of the text.",
)
TTS_INSTRUCTION = "Convert the text to speech."
ASR_INSTRUCTION = "Convert the speech to text."
S2I_SYSTEM = "Please generate an image based on the input audio."
SQA_SYSTEM = "Please response the input audio."
SVQA_SYSTEM = "Please response the input audio based on the given image."
INSTRUCTIONS = (*T2I_INSTRUCTIONS, TTS_INSTRUCTION, ASR_INSTRUCTION, S2I_SYSTEM, SQA_SYSTEM, SVQA_SYSTEM)
