import os
import signal

import pytest

from animora_training.commands.stop_signals import StopSignals
from animora_training.errors import Interrupted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_is_recorded_and_a_second_one_has_its_previous_effect(number):
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    with StopSignals() as signals:
        signals.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=f"ended by {number.name}"):
            signals.check()
        assert {one: signal.getsignal(one) for one in before} == before
    with StopSignals():
        assert signal.getsignal(number) != before[number]
    assert {one: signal.getsignal(one) for one in before} == before
