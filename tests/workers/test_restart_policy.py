from animora_server.workers.restart_policy import RestartPolicy


def test_delays_double_and_are_jittered():
    patience = RestartPolicy(first_delay=1.0)
    for ends, most in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0)):
        delays = [patience.delay(ends) for _ in range(100)]
        assert min(delays) >= most / 2
        assert max(delays) <= most
        assert len(set(delays)) > 1
