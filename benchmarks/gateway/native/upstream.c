// The model server of the gateway benchmark: answers at once, or with a stream of paced events. One thread, epoll.
//
// upstream PORT GAP_US EVENTS. The first line of its output is "listening PORT". Any POST whose body has "stream":true
// is answered with EVENTS chunks of about 250 bytes, one write each, GAP_US apart, the last with usage, and [DONE];
// any other with one JSON body; GET with what health checks and lists of models want to read.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FD = 65536, HEAD = 65536, EVENTS_AT_ONCE = 512 };

typedef struct {
    char *data;
    size_t size, room;
    int sent;           // events of the stream under way, -1 for none
    int64_t due_ns;
    uint32_t born;      // tells a later user of the same descriptor from this one
} Client;

typedef struct {
    int fd;
    uint32_t born;
} Due;

static Client clients[MAX_FD];
static Due queue[MAX_FD * 2];
static size_t queue_begin, queue_end;
static uint32_t births;
static int64_t gap_ns;
static int events_per_stream;
static char whole[2048], plain_chunk[1024], first_chunk[1024], last_chunk[2048], models[2048];
static size_t whole_size, plain_size, first_size, last_size, models_size;
static const char *stream_head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                                 "cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static size_t json_answer(char *into, size_t room, const char *body) {
    return (size_t)snprintf(into, room, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                            strlen(body), body);
}

static size_t chunk(char *into, size_t room, const char *delta, const char *finish, const char *usage) {
    char event[900];
    int size = snprintf(event, sizeof event,
                        "data: {\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"object\":\"chat.completion.chunk\","
                        "\"created\":1795000000,\"model\":\"upstream-model\",\"system_fingerprint\":\"fp_0123456789\","
                        "\"choices\":[{\"index\":0,\"delta\":%s,\"logprobs\":null,\"finish_reason\":%s}]%s}\n\n",
                        delta, finish, usage);
    return (size_t)snprintf(into, room, "%x\r\n%s\r\n", size, event);
}

static void prepare(void) {
    char text[301];
    memset(text, 'y', 300);
    text[300] = 0;
    char body[1024];
    snprintf(body, sizeof body,
             "{\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"object\":\"chat.completion\",\"created\":1795000000,"
             "\"model\":\"upstream-model\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},"
             "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":150,\"completion_tokens\":75,\"total_tokens\":225}}",
             text);
    whole_size = json_answer(whole, sizeof whole, body);
    models_size = json_answer(models, sizeof models,
                              "{\"object\":\"list\",\"data\":[{\"id\":\"upstream-model\",\"object\":\"model\",\"created\":1795000000,"
                              "\"owned_by\":\"rig\",\"max_model_len\":32768}],\"status\":\"ok\",\"model_path\":\"upstream-model\","
                              "\"is_generation\":true}");
    first_size = chunk(first_chunk, sizeof first_chunk, "{\"role\":\"assistant\",\"content\":\"\"}", "null", "");
    plain_size = chunk(plain_chunk, sizeof plain_chunk, "{\"content\":\" word\"}", "null", "");
    size_t end = chunk(last_chunk, sizeof last_chunk - 100, "{}", "\"stop\"",
                       ",\"usage\":{\"prompt_tokens\":150,\"completion_tokens\":31,\"total_tokens\":181}");
    last_size = end + (size_t)sprintf(last_chunk + end, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
}

static void push(int fd) {
    queue[queue_end].fd = fd;
    queue[queue_end].born = clients[fd].born;
    queue_end = (queue_end + 1) % (MAX_FD * 2);
}

static void drop(int fd) {
    clients[fd].born = 0;
    close(fd);
}

static void put(int fd, const char *data, size_t size) {
    if (write(fd, data, size) != (ssize_t)size) drop(fd);
}

static void answer(int fd, const char *head, const char *body, size_t body_size) {
    Client *client = &clients[fd];
    if (strncmp(head, "POST", 4) != 0) {
        put(fd, models, models_size);
    } else if (memmem(body, body_size, "\"stream\":true", 13) || memmem(body, body_size, "\"stream\": true", 14)) {
        char both[2048];
        size_t size = (size_t)sprintf(both, "%s", stream_head);
        memcpy(both + size, first_chunk, first_size);
        client->sent = 1;
        client->due_ns = now_ns() + gap_ns;
        put(fd, both, size + first_size);
        if (client->born) push(fd);
    } else {
        put(fd, whole, whole_size);
    }
}

// One request if it is all there; whether there was one.
static int take(int fd) {
    Client *client = &clients[fd];
    char *end = memmem(client->data, client->size, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t head = (size_t)(end - client->data) + 4, length = 0;
    *end = 0;
    char *field = strcasestr(client->data, "content-length:");
    if (field) length = strtoul(field + 15, NULL, 10);
    if (strcasestr(client->data, "transfer-encoding: chunked")) {
        char *last = memmem(client->data + head, client->size - head, "0\r\n\r\n", 5);
        if (!last) { *end = '\r'; return 0; }
        length = (size_t)(last + 5 - (client->data + head));
    }
    if (client->size < head + length) {
        *end = '\r';
        return 0;
    }
    uint32_t born = client->born;
    if (strcasestr(client->data, "expect: 100-continue")) put(fd, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    answer(fd, client->data, client->data + head, length);
    if (client->born != born) return 0;
    memmove(client->data, client->data + head + length, client->size - head - length);
    client->size -= head + length;
    return 1;
}

static void receive(int fd) {
    Client *client = &clients[fd];
    if (client->size + HEAD > client->room) {
        client->room = client->size + 2 * HEAD;
        client->data = realloc(client->data, client->room);
    }
    ssize_t got = read(fd, client->data + client->size, client->room - client->size - 1);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR)) drop(fd);
        return;
    }
    client->size += (size_t)got;
    client->data[client->size] = 0;
    while (client->born && take(fd)) {}
}

static void step(Due due) {
    Client *client = &clients[due.fd];
    if (client->born != due.born || client->sent < 0) return;
    client->sent++;
    if (client->sent < events_per_stream) {
        client->due_ns += gap_ns;
        put(due.fd, plain_chunk, plain_size);
        if (client->born) push(due.fd);
    } else {
        client->sent = -1;
        put(due.fd, last_chunk, last_size);
    }
}

// Sends what is due; how many milliseconds until more is, -1 for none.
static int run_due(void) {
    while (queue_begin != queue_end) {
        Due due = queue[queue_begin];
        if (clients[due.fd].born == due.born) {
            int64_t left = clients[due.fd].due_ns - now_ns();
            if (left > 0) return left > 1000000 ? (int)(left / 1000000) : 1;
        }
        queue_begin = (queue_begin + 1) % (MAX_FD * 2);
        step(due);
    }
    return -1;
}

int main(int count, char **arguments) {
    int port = count > 1 ? atoi(arguments[1]) : 0, on = 1;
    gap_ns = (count > 2 ? atoll(arguments[2]) : 5000) * 1000;
    events_per_stream = count > 3 ? atoi(arguments[3]) : 32;
    prepare();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) {
        perror("upstream");
        return 1;
    }
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("listening %d\n", ntohs(address.sin_port));
    fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, found[EVENTS_AT_ONCE];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int number = epoll_wait(poll, found, EVENTS_AT_ONCE, run_due());
        for (int at = 0; at < number; at++) {
            int fd = found[at].data.fd;
            if (fd != listener) {
                if (clients[fd].born) receive(fd);
                continue;
            }
            int accepted;
            while ((accepted = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                if (accepted >= MAX_FD) { close(accepted); continue; }
                setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                clients[accepted].size = 0;
                clients[accepted].sent = -1;
                clients[accepted].born = ++births;
                event.events = EPOLLIN;
                event.data.fd = accepted;
                epoll_ctl(poll, EPOLL_CTL_ADD, accepted, &event);
            }
        }
    }
}
