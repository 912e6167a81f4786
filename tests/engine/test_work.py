from unmask_engine.engine import Engine
from unmask_engine.request import Decoding, GenerationRequest, TextPart
from unmask_engine.testing_fakes import fake_bundle
from unmask_engine.work import Work


def test_an_engine_counts_what_it_does() -> None:
    engine = Engine(fake_bundle())
    assert engine.work == Work()
    request = GenerationRequest((TextPart("hi"),), ("image",), "t2i", None, Decoding(steps=3))
    prepared = engine.prepare(request)
    running = engine.submit(prepared)
    assert engine.work.tokens_in_flight == prepared.plan.tokens
    while running not in engine.step():
        pass
    assert engine.work == Work(steps=3, tokens=3 * prepared.plan.tokens)
