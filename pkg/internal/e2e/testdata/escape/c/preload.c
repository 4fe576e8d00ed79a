/* Loaded into a program that knows nothing of it: connects by a system call of
 * its own, before main or after it. ESCAPE_AT is "start" or "end", ESCAPE_TO
 * the port at ESCAPE_HOST. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A ClientHello with one cipher suite and nothing else. */
static const char hello[] = "\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x03"
	"headgate-headgate-headgate-32by." "\x00\x00\x02\x13\x01\x01\x00";

static void escape(const char *when)
{
	const char *at = getenv("ESCAPE_AT"), *host = getenv("ESCAPE_HOST"), *port = getenv("ESCAPE_PORT");
	struct sockaddr_in to = {.sin_family = AF_INET};
	char reply[128] = "";
	ssize_t n = 0;
	int fd;

	if (!at || strcmp(at, when) || !host || !port)
		return;
	to.sin_port = htons((unsigned short)atoi(port));
	inet_pton(AF_INET, host, &to.sin_addr);
	fd = (int)syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
	if (syscall(SYS_connect, fd, &to, sizeof(to))) {
		printf("{\"way\":\"preload\",\"result\":\"%s\",\"errno\":\"%d\",\"pid\":%d}\n", errno == EPERM ? "refused" : "error", errno, getpid());
	} else {
		if (write(fd, hello, sizeof(hello) - 1) > 0 && write(fd, "escape\n", 7) > 0)
			n = read(fd, reply, sizeof(reply) - 1);
		reply[strcspn(reply, "\n")] = 0;
		printf("{\"way\":\"preload\",\"result\":\"%s\",\"reply\":\"%s\",\"pid\":%d}\n", n > 0 ? "connected" : "error", reply, getpid());
	}
	fflush(stdout);
	close(fd);
}

__attribute__((constructor)) static void at_start(void) { escape("start"); }
__attribute__((destructor)) static void at_end(void) { escape("end"); }
