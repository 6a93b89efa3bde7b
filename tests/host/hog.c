/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Have a CPU for some seconds and let no ordinary thread on it: SCHED_FIFO, without a C library, so
 * that it is small enough to be written into a guest.
 */
#ifndef SECONDS
#define SECONDS 6
#endif

static long call(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("syscall" : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

void _start(void)
{
	int priority = 50;
	long time[2], end;

	call(144, 0, 1, (long)&priority);	/* sched_setscheduler(0, SCHED_FIFO) */
	call(228, 1, (long)time, 0);		/* clock_gettime(CLOCK_MONOTONIC) */
	end = time[0] + SECONDS;
	do
		call(228, 1, (long)time, 0);
	while (time[0] < end);
	call(60, 0, 0, 0);			/* exit */
}
