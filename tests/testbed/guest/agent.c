// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The command agent of the test bed: the first process of the nested host and
 * of every guest in it.
 *
 *   agent serve PORT SHELL   serve commands on a virtio-serial port
 *   agent relay SOCKET       connect stdin and stdout with a unix socket
 *   agent ask SOCKET COMMAND run one command through the socket of a port
 *
 * A frame in either direction is "TYPE ID LENGTH\n" and LENGTH bytes.
 * To the agent:   R run a shell command, stdin empty   J the same, stdin open
 *                 I bytes for its stdin (none: end)    K signal ("NUMBER group|one")
 *                 P ping
 * From the agent: S process id   O stdout   E stderr   X exit status   P pong
 *                 F could not start it
 * A command ends when its first process ends; what that left behind in the
 * background lives on, its output goes nowhere.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_JOBS 128
#define CHUNK 32768
#define MAX_FRAME (1 << 20)

struct job {
	unsigned long id;
	pid_t pid; /* 0: this slot is free */
	int in, out, err;
	char *pending; /* bytes that its stdin has not taken yet */
	size_t pending_len;
	int in_ends;
};

static struct job jobs[MAX_JOBS];
static int port;
static const char *shell;

static void nap(long ms)
{
	struct timespec t = { ms / 1000, (ms % 1000) * 1000000 };

	nanosleep(&t, NULL);
}

static int write_all(int fd, const char *bytes, size_t len)
{
	while (len) {
		ssize_t n = write(fd, bytes, len);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN) {
				struct pollfd p = { fd, POLLOUT, 0 };

				poll(&p, 1, 1000);
				continue;
			}
			return -1;
		}
		bytes += n;
		len -= n;
	}
	return 0;
}

static void reply(char type, unsigned long id, const char *bytes, size_t len)
{
	static char frame[CHUNK + 64];
	int head = snprintf(frame, 64, "%c %lu %zu\n", type, id, len);

	memcpy(frame + head, bytes, len);
	write_all(port, frame, head + len);
}

static void reply_number(char type, unsigned long id, long number)
{
	char text[32];

	reply(type, id, text, snprintf(text, sizeof(text), "%ld", number));
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static struct job *find(unsigned long id)
{
	for (int i = 0; i < MAX_JOBS; i++)
		if (jobs[i].pid && jobs[i].id == id)
			return &jobs[i];
	return NULL;
}

static void start(unsigned long id, const char *command, int open_stdin)
{
	struct job *job = NULL;
	int in[2] = { -1, -1 }, out[2], err[2];

	for (int i = 0; i < MAX_JOBS && !job; i++)
		if (!jobs[i].pid)
			job = &jobs[i];
	if (!job || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC) ||
	    (open_stdin && pipe2(in, O_CLOEXEC))) {
		reply('F', id, "no room for it", 14);
		return;
	}
	memset(job, 0, sizeof(*job));
	job->pid = fork();
	if (job->pid < 0) {
		job->pid = 0;
		reply('F', id, "cannot fork", 11);
		return;
	}
	if (!job->pid) {
		sigset_t none;

		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		signal(SIGPIPE, SIG_DFL);
		setsid();
		dup2(open_stdin ? in[0] : open("/dev/null", O_RDONLY), 0);
		dup2(out[1], 1);
		dup2(err[1], 2);
		execl(shell, shell, "-c", command, (char *)NULL);
		_exit(127);
	}
	close(out[1]);
	close(err[1]);
	close_fd(&in[0]);
	job->id = id;
	job->in = in[1];
	job->out = out[0];
	job->err = err[0];
	if (job->in >= 0)
		fcntl(job->in, F_SETFL, O_NONBLOCK);
	fcntl(job->out, F_SETFL, O_NONBLOCK);
	fcntl(job->err, F_SETFL, O_NONBLOCK);
	reply_number('S', id, job->pid);
}

/* Pass on what one pipe holds; at most limit chunks, so that jobs take turns. */
static void drain(struct job *job, int *fd, char type, int limit)
{
	static char bytes[CHUNK];

	while (*fd >= 0 && limit--) {
		ssize_t n = read(*fd, bytes, sizeof(bytes));

		if (n > 0)
			reply(type, job->id, bytes, n);
		else if (n == 0 || (errno != EAGAIN && errno != EINTR))
			close_fd(fd);
		else
			return;
	}
}

static void feed(struct job *job)
{
	if (job->pending_len) {
		ssize_t n = write(job->in, job->pending, job->pending_len);

		if (n > 0) {
			job->pending_len -= n;
			memmove(job->pending, job->pending + n, job->pending_len);
		} else if (n < 0 && errno != EAGAIN && errno != EINTR) {
			job->pending_len = 0;
			job->in_ends = 1;
		}
	}
	if (!job->pending_len && job->in_ends)
		close_fd(&job->in);
}

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (int i = 0; i < MAX_JOBS; i++) {
			struct job *job = &jobs[i];

			if (job->pid != pid)
				continue;
			/* A pipe holds 64 KiB; more comes from a survivor. */
			drain(job, &job->out, 'O', 64);
			drain(job, &job->err, 'E', 64);
			close_fd(&job->in);
			close_fd(&job->out);
			close_fd(&job->err);
			free(job->pending);
			job->pid = 0;
			reply_number('X', job->id,
				     WIFSIGNALED(status) ? -WTERMSIG(status) :
							   WEXITSTATUS(status));
		}
	}
}

static void obey(char type, unsigned long id, char *bytes, size_t len)
{
	struct job *job = find(id);

	if (type == 'R' || type == 'J') {
		start(id, bytes, type == 'J');
	} else if (type == 'P') {
		reply('P', id, bytes, len > CHUNK ? CHUNK : len);
	} else if (type == 'K' && job) {
		int number = atoi(bytes);

		kill(strstr(bytes, "group") ? -job->pid : job->pid, number);
	} else if (type == 'I' && job && job->in >= 0) {
		if (len) {
			job->pending = realloc(job->pending, job->pending_len + len);
			memcpy(job->pending + job->pending_len, bytes, len);
			job->pending_len += len;
		} else {
			job->in_ends = 1;
		}
		feed(job);
	}
}

/* Obey all complete frames; return how many bytes they took, -1 on nonsense. */
static long obey_all(char *bytes, size_t len)
{
	size_t done = 0;

	for (;;) {
		char *end = memchr(bytes + done, '\n', len - done), type, after;
		unsigned long id;
		size_t body;

		if (!end)
			return len - done > 64 ? -1 : (long)done;
		*end = 0;
		if (sscanf(bytes + done, "%c %lu %zu", &type, &id, &body) != 3 ||
		    body > MAX_FRAME)
			return -1;
		*end = '\n';
		end++;
		if ((size_t)(bytes + len - end) < body)
			return done;
		after = end[body];
		end[body] = 0;
		obey(type, id, end, body);
		end[body] = after;
		done = end + body - bytes;
	}
}

static int serve(const char *path)
{
	static char inbox[MAX_FRAME * 2 + 1];
	struct pollfd fds[2 + 3 * MAX_JOBS];
	size_t held = 0;
	sigset_t child;
	int signals;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	port = open(path, O_RDWR | O_CLOEXEC);
	if (port < 0 || signals < 0) {
		perror(path);
		return 1;
	}
	for (;;) {
		int count = 2;

		fds[0] = (struct pollfd){ port, POLLIN, 0 };
		fds[1] = (struct pollfd){ signals, POLLIN, 0 };
		for (int i = 0; i < MAX_JOBS; i++) {
			struct job *job = &jobs[i];

			if (!job->pid)
				continue;
			fds[count++] = (struct pollfd){ job->out, POLLIN, 0 };
			fds[count++] = (struct pollfd){ job->err, POLLIN, 0 };
			fds[count++] = (struct pollfd){
				job->pending_len ? job->in : -1, POLLOUT, 0
			};
		}
		if (poll(fds, count, -1) < 0 && errno != EINTR)
			return 1;
		for (int i = 0; i < MAX_JOBS; i++) {
			if (!jobs[i].pid)
				continue;
			drain(&jobs[i], &jobs[i].out, 'O', 4);
			drain(&jobs[i], &jobs[i].err, 'E', 4);
			if (jobs[i].in >= 0)
				feed(&jobs[i]);
		}
		if (fds[1].revents) {
			struct signalfd_siginfo info;

			while (read(signals, &info, sizeof(info)) > 0)
				;
			reap();
		}
		if (fds[0].revents & POLLIN) {
			ssize_t n = read(port, inbox + held,
					 sizeof(inbox) - 1 - held);
			long used;

			if (n <= 0) {
				nap(20); /* nobody at the other end: the port is "readable" */
				continue;
			}
			held += n;
			used = obey_all(inbox, held);
			if (used < 0)
				used = held; /* out of step: begin anew */
			held -= used;
			memmove(inbox, inbox + used, held);
		} else if (fds[0].revents) {
			nap(20); /* nobody at the other end of the port yet */
		}
	}
}

/* Connect with a unix socket, which may come to be only later. */
static int connect_to(const char *path, int tries)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int s = socket(AF_UNIX, SOCK_STREAM, 0);

	strncpy(name.sun_path, path, sizeof(name.sun_path) - 1);
	while (connect(s, (struct sockaddr *)&name, sizeof(name))) {
		if (!tries--) {
			perror(path);
			exit(125);
		}
		nap(10);
	}
	return s;
}

static int relay(const char *path)
{
	static char bytes[CHUNK];
	int s = connect_to(path, 3000);

	for (;;) {
		struct pollfd fds[2] = { { 0, POLLIN, 0 }, { s, POLLIN, 0 } };

		if (poll(fds, 2, -1) < 0)
			continue;
		for (int i = 0; i < 2; i++) {
			ssize_t n;

			if (!fds[i].revents)
				continue;
			n = read(fds[i].fd, bytes, sizeof(bytes));
			if (n <= 0 || write_all(i ? 1 : s, bytes, n))
				return 0;
		}
	}
}

static int ask(const char *path, const char *command)
{
	static char bytes[CHUNK + 1];
	unsigned long id = getpid(), from;
	FILE *port = fdopen(connect_to(path, 100), "r+");
	size_t len;
	char type;

	fprintf(port, "R %lu %zu\n%s", id, strlen(command), command);
	fflush(port);
	/* Frames of somebody who asked before and went away are passed over. */
	while (fscanf(port, "%c %lu %zu", &type, &from, &len) == 3) {
		if (fgetc(port) != '\n' || len > CHUNK ||
		    fread(bytes, 1, len, port) != len)
			break;
		bytes[len] = 0;
		if (from != id)
			continue;
		if (type == 'O' || type == 'E')
			write_all(type == 'O' ? 1 : 2, bytes, len);
		else if (type == 'X')
			return atoi(bytes) < 0 ? 128 - atoi(bytes) : atoi(bytes);
		else if (type == 'F')
			break;
	}
	fprintf(stderr, "agent: no answer\n");
	return 125;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "serve")) {
		shell = argv[3];
		return serve(argv[2]);
	}
	if (argc == 3 && !strcmp(argv[1], "relay"))
		return relay(argv[2]);
	if (argc == 4 && !strcmp(argv[1], "ask"))
		return ask(argv[2], argv[3]);
	fprintf(stderr, "usage: agent serve PORT SHELL | relay SOCKET | "
			"ask SOCKET COMMAND\n");
	return 2;
}
