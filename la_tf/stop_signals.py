"""Which signals ask a program to stop, and to leave nothing half done."""

import signal


def stop_signals() -> list[signal.Signals]:
    """SIGTERM, Ctrl-C and a closed terminal, but for those that the caller ignores.

    `nohup` ignores SIGHUP, and a shell Ctrl-C for what its scripts start in the background.
    """
    asked = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [number for number in asked if signal.getsignal(number) is not signal.SIG_IGN]
