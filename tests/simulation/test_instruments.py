"""Instruments: every way to record light can be imported from one place."""

from astroclip.simulation import cameras, instruments, spectrographs


def test_every_public_name_of_the_instruments_is_here_and_the_same():
    for module in (cameras, spectrographs):
        for name in module.__all__:
            assert getattr(instruments, name) is getattr(module, name)
            assert name in instruments.__all__
