// The load generator of the gateway benchmark. One thread, epoll.
//
// load PORT REQUEST_FILE RATE CONNECTIONS WARM_S SECONDS. REQUEST_FILE holds one whole HTTP request, sent again and again.
// RATE 0: each of CONNECTIONS sends its next request when its answer is whole (saturation). RATE > 0: an open loop, a
// request every 1 / RATE s, whatever becomes of the others; latencies count from the scheduled time, so a request that
// had to wait to be sent has waited (no coordinated omission), and CONNECTIONS is the most that may be open.
// Prints one JSON object: what was answered within SECONDS behind WARM_S, latencies to the first `data:` (or the first byte of a
// body) and to the end in milliseconds, and the lag, by how much later than scheduled requests left.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 8192, ROOM = 1 << 17, AT_ONCE = 512 };
enum { HEAD, SIZED, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER };

typedef struct {
    int fd, is_busy, state, status, is_event_stream, matched, is_closing, has_done;
    int64_t due_ns, first_ns;
    size_t left, head_size, line;
    long events;
    char head[4096];
} Connection;

typedef struct {
    float *values;
    size_t size, room;
} Series;

static Connection connections[MAX_CONNECTIONS];
static int idle[MAX_CONNECTIONS], idle_count, opened, most, poller, port;
static char *request, buffer[ROOM];
static size_t request_size;
static int64_t begin_ns, end_ns, next_ns, gap_ns;
static double rate;
static Series firsts, totals, lags;
static long answered, bad, events, waiting_most, statuses[6], cut;
static int64_t waiting[1 << 20];
static size_t waiting_begin, waiting_end;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void keep(Series *series, int64_t ns) {
    if (series->size == series->room) {
        series->room = series->room ? 2 * series->room : 1 << 16;
        series->values = realloc(series->values, series->room * sizeof(float));
    }
    series->values[series->size++] = (float)((double)ns / 1e6);
}

static int open_connection(Connection *it) {
    int on = 1;
    it->fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(it->fd, (struct sockaddr *)&address, sizeof address)) {
        close(it->fd);
        it->fd = -1;
        return 0;
    }
    fcntl(it->fd, F_SETFL, O_NONBLOCK);
    setsockopt(it->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = it};
    epoll_ctl(poller, EPOLL_CTL_ADD, it->fd, &event);
    return 1;
}

static void send_on(Connection *it, int64_t due_ns) {
    it->is_busy = 1;
    it->state = HEAD;
    it->head_size = it->line = 0;
    it->matched = it->is_closing = it->has_done = 0;
    it->events = 0;
    it->first_ns = 0;
    it->due_ns = due_ns;
    int64_t now = now_ns();
    if (rate > 0 && due_ns >= begin_ns && due_ns < end_ns) keep(&lags, now - due_ns);
    if (write(it->fd, request, request_size) != (ssize_t)request_size) {
        fprintf(stderr, "load: a request was not taken whole: %s\n", strerror(errno));
        exit(2);
    }
}

static void next(Connection *it, int64_t now);

static void over(Connection *it, int is_good) {
    int64_t now = now_ns();
    it->is_busy = 0;
    if (it->is_event_stream && is_good && !it->has_done) is_good = 0, cut++;
    if (now >= begin_ns && now < end_ns) {
        is_good ? answered++ : bad++;
        statuses[it->status / 100 % 6]++;
    }
    if (is_good && it->due_ns >= begin_ns && it->due_ns < end_ns) {
        keep(&totals, now - it->due_ns);
        keep(&firsts, it->first_ns - it->due_ns);
    }
    if (it->is_closing || !is_good) {
        close(it->fd);
        it->fd = -1;
        if (!open_connection(it)) return;
    }
    next(it, now);
}

static void next(Connection *it, int64_t now) {
    if (rate == 0) {
        if (now < end_ns) send_on(it, now_ns());
    } else if (waiting_begin != waiting_end) {
        send_on(it, waiting[waiting_begin]);
        waiting_begin = (waiting_begin + 1) % (1 << 20);
    } else {
        idle[idle_count++] = (int)(it - connections);
    }
}

static void body(Connection *it, const char *data, size_t size) {
    static const char word[] = "data: [DONE]";
    if (!it->is_event_stream) {
        if (!it->first_ns) it->first_ns = now_ns();
        return;
    }
    int64_t now = 0;
    for (size_t at = 0; at < size; at++) {
        it->matched = data[at] == word[it->matched] ? it->matched + 1 : data[at] == 'd';
        if (it->matched == 5) {
            if (!now) now = now_ns();
            if (!it->first_ns) it->first_ns = now;
            if (now >= begin_ns && now < end_ns) events++;
            it->events++;
        } else if (it->matched == 12) {
            it->has_done = 1;
            it->matched = 0;
        }
    }
}

static void head(Connection *it) {
    it->head[it->head_size] = 0;
    it->status = atoi(it->head + 9);
    it->is_event_stream = strcasestr(it->head, "text/event-stream") != NULL;
    it->is_closing = strcasestr(it->head, "connection: close") != NULL;
    const char *length = strcasestr(it->head, "content-length:");
    it->state = strcasestr(it->head, "transfer-encoding: chunked") ? CHUNK_SIZE : SIZED;
    it->left = length ? strtoul(length + 15, NULL, 10) : 0;
    it->line = 0;
}

// Reads on; returns when the bytes are used up or the answer is over.
static void read_on(Connection *it, const char *data, size_t size) {
    size_t at = 0;
    while (at < size) {
        if (it->state == HEAD) {
            if (it->head_size + 1 >= sizeof it->head) { fprintf(stderr, "load: a head of more than 4 KiB\n"); exit(2); }
            it->head[it->head_size++] = data[at++];
            if (it->head_size < 4 || memcmp(it->head + it->head_size - 4, "\r\n\r\n", 4)) continue;
            head(it);
            if (it->state == SIZED && !it->left) { over(it, it->status == 200); return; }
        } else if (it->state == SIZED || it->state == CHUNK_DATA) {
            size_t part = size - at < it->left ? size - at : it->left;
            body(it, data + at, part);
            at += part;
            it->left -= part;
            if (it->left) continue;
            if (it->state == SIZED) { over(it, it->status == 200); return; }
            it->state = CHUNK_END;
        } else {
            char byte = data[at++];
            if (it->state == CHUNK_SIZE && byte != '\n') {
                if (byte != '\r') it->left = 16 * it->left + (size_t)(byte <= '9' ? byte - '0' : (byte | 32) - 'a' + 10);
            } else if (byte == '\n') {
                if (it->state == TRAILER) { over(it, it->status == 200); return; }
                it->state = it->state == CHUNK_END ? CHUNK_SIZE : it->left ? CHUNK_DATA : TRAILER;
                if (it->state == CHUNK_SIZE) it->left = 0;
            }
        }
    }
}

static void receive(Connection *it) {
    ssize_t got = read(it->fd, buffer, ROOM);
    if (got > 0) {
        if (it->is_busy) read_on(it, buffer, (size_t)got);
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        if (it->is_busy) {
            it->status = 599;
            over(it, 0);
        } else {
            close(it->fd);
            if (!open_connection(it)) it->fd = -1;
        }
    }
}

static void schedule(void) {
    for (int64_t now = now_ns(); next_ns <= now && next_ns < end_ns; next_ns += gap_ns) {
        if (!idle_count && opened < most) {
            if (open_connection(&connections[opened])) idle[idle_count++] = opened++;
        }
        if (idle_count) {
            send_on(&connections[idle[--idle_count]], next_ns);
        } else {
            waiting[waiting_end] = next_ns;
            waiting_end = (waiting_end + 1) % (1 << 20);
            long number = (long)((waiting_end - waiting_begin) & ((1 << 20) - 1));
            if (number > waiting_most) waiting_most = number;
        }
    }
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void tell(const char *name, Series *series) {
    qsort(series->values, series->size, sizeof(float), by_size);
    double sum = 0;
    for (size_t at = 0; at < series->size; at++) sum += series->values[at];
    printf(",\"%s\":{\"count\":%zu", name, series->size);
    if (series->size) {
        static const struct { const char *name; double rank; } ranks[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}, {"max", 1.0}};
        printf(",\"mean\":%.4f", sum / (double)series->size);
        for (size_t at = 0; at < 5; at++) {
            size_t index = (size_t)(ranks[at].rank * (double)(series->size - 1) + 0.5);
            printf(",\"%s\":%.4f", ranks[at].name, series->values[index]);
        }
    }
    printf("}");
}

int main(int count, char **arguments) {
    if (count != 7) { fprintf(stderr, "usage: load PORT REQUEST_FILE RATE CONNECTIONS WARM_S SECONDS\n"); return 2; }
    port = atoi(arguments[1]);
    FILE *file = fopen(arguments[2], "rb");
    if (!file) { perror(arguments[2]); return 2; }
    request = malloc(1 << 20);
    request_size = fread(request, 1, 1 << 20, file);
    rate = atof(arguments[3]);
    most = atoi(arguments[4]);
    if (most > MAX_CONNECTIONS) { fprintf(stderr, "load: at most %d connections\n", MAX_CONNECTIONS); return 2; }
    double warm_s = atof(arguments[5]), seconds = atof(arguments[6]);
    poller = epoll_create1(0);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, found[AT_ONCE];
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
    int64_t start = now_ns() + 1000000;
    begin_ns = start + (int64_t)(warm_s * 1e9);
    end_ns = begin_ns + (int64_t)(seconds * 1e9);
    if (rate > 0) {
        gap_ns = (int64_t)(1e9 / rate);
        next_ns = start;
        struct itimerspec spec = {.it_value = {start / 1000000000, start % 1000000000}, .it_interval = {gap_ns / 1000000000, gap_ns % 1000000000}};
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &spec, NULL);
    } else {
        for (; opened < most; opened++) {
            if (!open_connection(&connections[opened])) { perror("load: connect"); return 2; }
        }
        for (int at = 0; at < most; at++) send_on(&connections[at], now_ns());
    }
    int64_t grace_ns = 3000000000;
    while (now_ns() < end_ns + (rate > 0 ? grace_ns : 0)) {
        int number = epoll_wait(poller, found, AT_ONCE, 20);
        for (int at = 0; at < number; at++) {
            if (found[at].data.ptr) {
                receive(found[at].data.ptr);
            } else {
                uint64_t ticks;
                if (read(timer, &ticks, sizeof ticks) > 0) schedule();
            }
        }
        if (rate > 0 && now_ns() > end_ns && idle_count == opened && waiting_begin == waiting_end) break;
    }
    long unanswered = rate > 0 ? (long)(opened - idle_count) + (long)((waiting_end - waiting_begin) & ((1 << 20) - 1)) : 0;
    printf("{\"seconds\":%.3f,\"answered\":%ld,\"bad\":%ld,\"cut\":%ld,\"unanswered\":%ld,\"events\":%ld,\"connections\":%d,\"waiting_most\":%ld,"
           "\"per_s\":%.2f,\"events_per_s\":%.2f,\"statuses\":{\"2xx\":%ld,\"4xx\":%ld,\"5xx\":%ld}",
           seconds, answered, bad, cut, unanswered, events, opened, waiting_most, (double)answered / seconds, (double)events / seconds,
           statuses[2], statuses[4], statuses[5]);
    tell("first_ms", &firsts);
    tell("total_ms", &totals);
    tell("lag_ms", &lags);
    printf("}\n");
    return 0;
}
