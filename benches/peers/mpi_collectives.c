/* Speed of MPI's own collectives between the ranks of a job, as benches/collectives.rs measures ours:
 *   mpicc -O2 mpi_collectives.c -o mpi_collectives && mpirun -n 2 ./mpi_collectives
 * Prints a line of JSON for each collective and size: seconds of every round, of the slowest rank. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { WARM_UP = 5, ROUNDS_MAX = 400 };

static void measure(const char *collective, size_t bytes, int rank, int size)
{
    int count = (int)(bytes / sizeof(float));
    int rounds = (int)(((size_t)1 << 31) / bytes);
    rounds = rounds < 20 ? 20 : rounds > ROUNDS_MAX ? ROUNDS_MAX : rounds;
    float *in = malloc(bytes), *out = malloc(bytes);
    if (!in || !out)
        MPI_Abort(MPI_COMM_WORLD, 1);
    for (int i = 0; i < count; i++)
        in[i] = out[i] = 0.0f;
    double seconds[ROUNDS_MAX], slowest[ROUNDS_MAX];
    for (int round = -WARM_UP; round < rounds; round++) {
        MPI_Barrier(MPI_COMM_WORLD);
        double start = MPI_Wtime();
        if (collective[4] == 'r')
            MPI_Allreduce(MPI_IN_PLACE, out, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        else
            MPI_Alltoall(in, count / size, MPI_FLOAT, out, count / size, MPI_FLOAT, MPI_COMM_WORLD);
        if (round >= 0)
            seconds[round] = MPI_Wtime() - start;
    }
    MPI_Reduce(seconds, slowest, rounds, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    if (rank == 0) {
        printf("{\"name\": \"MPI\", \"collective\": \"%s\", \"bytes\": %zu, \"seconds\": [", collective, bytes);
        for (int round = 0; round < rounds; round++)
            printf("%s%.9f", round ? ", " : "", slowest[round]);
        printf("]}\n");
    }
    free(in);
    free(out);
}

int main(int argc, char **argv)
{
    const size_t sizes[] = {1 << 20, 25 << 20, 100 << 20};
    int rank, size;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    for (int i = 0; i < 3; i++) {
        measure("all-reduce", sizes[i], rank, size);
        measure("all-to-all", sizes[i], rank, size);
    }
    MPI_Finalize();
    return 0;
}
