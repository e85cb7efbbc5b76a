/* Port to a POSIX host: the cluster's cores are threads that wait for work between forks. */

#define _POSIX_C_SOURCE 200809L

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "port.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static pthread_cond_t done = PTHREAD_COND_INITIALIZER;
static void (*current_body)(void *);
static void *current_arg;
static unsigned generation; /* counts forks, so that a worker sees each once */
static int num_running;
static FILE *results;
static __thread int core_id;

int port_core_id(void)
{
    return core_id;
}

static void *worker(void *id)
{
    unsigned seen = 0;
    core_id = *(int const *)id;
    for (;;) {
        pthread_mutex_lock(&lock);
        while (generation == seen)
            pthread_cond_wait(&work, &lock);
        seen = generation;
        pthread_mutex_unlock(&lock);
        current_body(current_arg);
        pthread_mutex_lock(&lock);
        if (--num_running == 0)
            pthread_cond_signal(&done);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

void port_fork(void (*body)(void *), void *arg)
{
    pthread_mutex_lock(&lock);
    current_body = body;
    current_arg = arg;
    num_running = NUM_CORES - 1;
    generation++;
    pthread_cond_broadcast(&work);
    pthread_mutex_unlock(&lock);
    body(arg);
    pthread_mutex_lock(&lock);
    while (num_running > 0)
        pthread_cond_wait(&done, &lock);
    pthread_mutex_unlock(&lock);
}

uint64_t port_cycles(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void port_panic(char const *file, int line)
{
    fprintf(stderr, "%s:%d: check failed\n", file, line);
    exit(1);
}

void port_write(void const *data, size_t num_bytes)
{
    if (fwrite(data, 1, num_bytes, results) != num_bytes)
        port_panic(__FILE__, __LINE__);
}

int port_open(char const *name)
{
    int const file = open(name, O_RDWR);
    PORT_CHECK(file >= 0);
    return file;
}

size_t port_read_at(int region, uint64_t offset, void *data, size_t num_bytes)
{
    size_t moved = 0;
    while (moved < num_bytes) {
        ssize_t const part = pread(region, (char *)data + moved, num_bytes - moved, (off_t)(offset + moved));
        PORT_CHECK(part >= 0);
        if (part == 0)
            break;
        moved += (size_t)part;
    }
    return moved;
}

void port_write_at(int region, uint64_t offset, void const *data, size_t num_bytes)
{
    size_t moved = 0;
    while (moved < num_bytes) {
        ssize_t const part =
            pwrite(region, (char const *)data + moved, num_bytes - moved, (off_t)(offset + moved));
        PORT_CHECK(part > 0);
        moved += (size_t)part;
    }
}

void port_sync(int region)
{
    PORT_CHECK(fsync(region) == 0);
}

int main(void)
{
    static int ids[NUM_CORES];
    for (int i = 1; i < NUM_CORES; i++) {
        pthread_t thread;
        ids[i] = i;
        if (pthread_create(&thread, NULL, worker, &ids[i]) != 0)
            port_panic(__FILE__, __LINE__);
    }
    results = fopen("results.bin", "wb");
    if (!results)
        port_panic(__FILE__, __LINE__);
    tcl_main();
    return fclose(results) == 0 ? 0 : 1;
}
