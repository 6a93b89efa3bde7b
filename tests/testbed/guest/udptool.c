// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Counted UDP for the test bed.
 *
 *   udptool send DST PORT COUNT SIZE PPS
 *   udptool recv PORT COUNT SECONDS [RCVBUF [IDLE_MS [DELAY_US]]]
 *   udptool recv6 ...
 *
 * Every datagram begins with its number (8 bytes, big-endian, from 0). The
 * sender keeps to PPS datagrams a second (0: as fast as it can). The receiver
 * says "ready", then takes datagrams until COUNT different ones came (0: no
 * such limit), SECONDS passed, SIGTERM came, or none came for IDLE_MS after the
 * first; with DELAY_US it sleeps after each. Both end with one line of JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL

static char datagram[65536];
static volatile sig_atomic_t told_to_end;

static void end_it(int number)
{
	(void)number;
	told_to_end = 1;
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * NS + t.tv_nsec;
}

static void sleep_until(int64_t ns)
{
	struct timespec t = { ns / NS, ns % NS };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

static socklen_t address(const char *text, int port, struct sockaddr_storage *to)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)to;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)to;

	memset(to, 0, sizeof(*to));
	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		return sizeof(*v4);
	}
	if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		return sizeof(*v6);
	}
	fprintf(stderr, "udptool: not an address: %s\n", text);
	exit(2);
}

static int run_send(char **arg)
{
	struct sockaddr_storage to;
	socklen_t to_len = address(arg[0], atoi(arg[1]), &to);
	int64_t count = atoll(arg[2]), pps = atoll(arg[4]), begin, took;
	int size = atoi(arg[3]), room = 4 << 20, last_error = 0;
	int s = socket(to.ss_family, SOCK_DGRAM, 0);
	int64_t sent = 0, errors = 0;

	if (size < 8 || size > 65000) {
		fprintf(stderr, "udptool: SIZE is 8 to 65000\n");
		return 2;
	}
	setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
	begin = now_ns();
	for (int64_t i = 0; i < count; i++) {
		uint64_t number = htobe64(i);

		memcpy(datagram, &number, sizeof(number));
		if (pps && i)
			sleep_until(begin + i * NS / pps);
		if (sendto(s, datagram, size, 0, (struct sockaddr *)&to, to_len) < 0) {
			errors++;
			last_error = errno;
		} else {
			sent++;
		}
	}
	took = now_ns() - begin;
	printf("{\"sent\": %lld, \"errors\": %lld, \"last_error\": %d, "
	       "\"took_ns\": %lld}\n",
	       (long long)sent, (long long)errors, last_error, (long long)took);
	return 0;
}

/* Note that number came. Return 1 if it had come before. */
static int seen_before(uint64_t number)
{
	static uint8_t *seen;
	static uint64_t room;
	uint8_t bit = 1 << (number % 8);
	int before;

	if (number / 8 >= room) {
		uint64_t more = number / 8 * 2 + 4096;

		if (more > (1 << 28))
			return 0;
		seen = realloc(seen, more);
		memset(seen + room, 0, more - room);
		room = more;
	}
	before = !!(seen[number / 8] & bit);
	seen[number / 8] |= bit;
	return before;
}

static int run_recv(int family, int args, char **arg)
{
	int64_t count = atoll(arg[1]), idle, begin, last = 0;
	int64_t end, received = 0, bytes = 0, duplicates = 0, first_seq = -1;
	int64_t last_seq = -1, different, gaps, first_ns = 0;
	int room = args > 3 && atoi(arg[3]) ? atoi(arg[3]) : 8 << 20;
	int delay_us = args > 5 ? atoi(arg[5]) : 0;
	int s = socket(family, SOCK_DGRAM, 0);
	struct timeval tick = { 0, 50000 };
	struct sockaddr_storage here;
	socklen_t here_len =
		address(family == AF_INET ? "0.0.0.0" : "::", atoi(arg[0]), &here);

	idle = (args > 4 ? atoll(arg[4]) : 1500) * 1000000;
	setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof(tick));
	if (bind(s, (struct sockaddr *)&here, here_len)) {
		perror("udptool: bind");
		return 1;
	}
	signal(SIGTERM, end_it);
	printf("ready\n");
	begin = now_ns();
	end = begin + (int64_t)(atof(arg[2]) * NS);
	for (;;) {
		ssize_t n = recv(s, datagram, sizeof(datagram), 0);
		int64_t now = now_ns();
		uint64_t number;

		if (now >= end ||
		    (n < 0 && (told_to_end || (last && now - last >= idle))))
			break;
		if (n < (ssize_t)sizeof(number))
			continue;
		memcpy(&number, datagram, sizeof(number));
		number = be64toh(number);
		last = now;
		received++;
		bytes += n;
		if (seen_before(number))
			duplicates++;
		if (first_seq < 0) {
			first_seq = last_seq = number;
			first_ns = now;
		}
		if ((int64_t)number < first_seq)
			first_seq = number;
		if ((int64_t)number > last_seq)
			last_seq = number;
		if (count && received - duplicates >= count)
			break;
		if (delay_us)
			usleep(delay_us);
	}
	different = received - duplicates;
	gaps = received ? last_seq - first_seq + 1 - different : 0;
	printf("{\"received\": %lld, \"bytes\": %lld, \"gaps\": %lld, "
	       "\"first_seq\": %lld, \"last_seq\": %lld, \"duplicates\": %lld, "
	       "\"span_ns\": %lld}\n",
	       (long long)received, (long long)bytes, (long long)gaps,
	       (long long)first_seq, (long long)last_seq, (long long)duplicates,
	       (long long)(last - first_ns));
	return 0;
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 7 && !strcmp(argv[1], "send"))
		return run_send(argv + 2);
	if (argc >= 5 && !strcmp(argv[1], "recv"))
		return run_recv(AF_INET, argc - 2, argv + 2);
	if (argc >= 5 && !strcmp(argv[1], "recv6"))
		return run_recv(AF_INET6, argc - 2, argv + 2);
	fprintf(stderr, "usage: udptool send DST PORT COUNT SIZE PPS\n"
			"       udptool recv|recv6 PORT COUNT SECONDS "
			"[RCVBUF [IDLE_MS [DELAY_US]]]\n");
	return 2;
}
