"""The Python API: a recording as pandas frames, as objects, as figures; of a file or of this host.

    import vtrace

    t = vtrace.open("run.vtrace")
    t.drops.groupby("reason").size()
    slow = t.lifecycles.where('queue == "rx0" and service_ns > 1ms').to_pandas()
    t.report()["queues"], t.diagnose().findings, t.loss

Nothing is read before it is asked for. ``vtrace`` itself has the names, and
loads this room at the first use of one.
"""
