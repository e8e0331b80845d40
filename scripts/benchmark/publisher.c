// Sends wsload's publisher to a port of its own: linked in with -Wl,--wrap=connect.
//
// wsload opens watchers and publisher to one port, which suits a relay. In dispatch a turn's words
// come from an agent, so the publisher has to reach the agent's port while the watchers reach the
// daemon's. wsload opens its connections in a fixed order, so one of them is known by its number.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int __real_connect(int fd, const struct sockaddr *address, socklen_t size);

int __wrap_connect(int fd, const struct sockaddr *address, socklen_t size) {
    static long opened;
    const char *port = getenv("PUBLISHER_PORT"), *number = getenv("PUBLISHER_NUMBER");
    struct sockaddr_in other;
    long mine = opened++;
    if (!port || !number || mine != atol(number) || size != sizeof other)
        return __real_connect(fd, address, size);
    memcpy(&other, address, sizeof other);
    other.sin_port = htons((unsigned short)atoi(port));
    return __real_connect(fd, (const struct sockaddr *)&other, sizeof other);
}
