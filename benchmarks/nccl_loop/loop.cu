// NCCL alone: collectives on all GPUs of this host in one process, the floor that benchmarks/collectives.py compares with.
//
// loop SMALLEST LARGEST: sizes in bytes, doubling. A JSON line a row on standard output. Sizes, buffers, repetitions and
// the mean over the GPUs are those of cluster/probes/sweep.py, which says what they mean. But here every operation is
// launched, and the median of the batches is that of the GPUs' mean.

#include <cuda_runtime.h>
#include <nccl.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#define CUDA(call)                                                                                  \
    do {                                                                                            \
        cudaError_t error = (call);                                                                 \
        if (error != cudaSuccess) {                                                                 \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(error));     \
            std::exit(1);                                                                           \
        }                                                                                           \
    } while (0)

#define NCCL(call)                                                                                  \
    do {                                                                                            \
        ncclResult_t result = (call);                                                               \
        if (result != ncclSuccess) {                                                                \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, ncclGetErrorString(result));    \
            std::exit(1);                                                                           \
        }                                                                                           \
    } while (0)

constexpr int kWarmUp = 2;
constexpr double kSecondsASize = 0.3;
constexpr int kLeast = 5;
constexpr int kMost = 20;
constexpr double kShort = 1e-3;
constexpr int kShortBatches = 5;
constexpr size_t kElement = sizeof(float);
constexpr size_t kShardUnit = 16;  // bytes
constexpr size_t kReserve = size_t{2} << 30;  // bytes for NCCL's own buffers

struct Rank {
    ncclComm_t comm;
    cudaStream_t stream;
    cudaEvent_t start, end;
    float* buffer;    // of the largest size
    float* received;  // of the same size, for all_to_all only
};

const char* const kOperations[] = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"};

bool is_whole(const std::string& operation) { return operation == "all_reduce" || operation == "broadcast"; }

// One operation of `bytes` on one rank; the caller has opened a group.
void launch(const std::string& operation, const Rank& rank, size_t bytes, int number, int ranks) {
    const size_t count = bytes / kElement, shard = count / ranks;
    float* own = rank.buffer + number * shard;
    if (operation == "all_reduce") {
        NCCL(ncclAllReduce(rank.buffer, rank.buffer, count, ncclFloat, ncclSum, rank.comm, rank.stream));
    } else if (operation == "broadcast") {
        NCCL(ncclBroadcast(rank.buffer, rank.buffer, count, ncclFloat, 0, rank.comm, rank.stream));
    } else if (operation == "all_gather") {
        NCCL(ncclAllGather(own, rank.buffer, shard, ncclFloat, rank.comm, rank.stream));
    } else if (operation == "reduce_scatter") {
        NCCL(ncclReduceScatter(rank.buffer, own, shard, ncclFloat, ncclSum, rank.comm, rank.stream));
    } else {
        for (int peer = 0; peer < ranks; ++peer) {
            NCCL(ncclSend(rank.buffer + peer * shard, shard, ncclFloat, peer, rank.comm, rank.stream));
            NCCL(ncclRecv(rank.received + peer * shard, shard, ncclFloat, peer, rank.comm, rank.stream));
        }
    }
}

// Seconds of `count` operations back to back, the mean over the ranks; one more goes before, as in stopwatch.py.
double seconds(const std::string& operation, std::vector<Rank>& ranks, size_t bytes, int count) {
    const int size = static_cast<int>(ranks.size());
    const auto once = [&] {
        NCCL(ncclGroupStart());
        for (int i = 0; i < size; ++i) launch(operation, ranks[i], bytes, i, size);
        NCCL(ncclGroupEnd());
    };
    once();
    for (int i = 0; i < size; ++i) {
        CUDA(cudaSetDevice(i));
        CUDA(cudaEventRecord(ranks[i].start, ranks[i].stream));
    }
    for (int repetition = 0; repetition < count; ++repetition) once();
    double total = 0;
    for (int i = 0; i < size; ++i) {
        CUDA(cudaSetDevice(i));
        CUDA(cudaEventRecord(ranks[i].end, ranks[i].stream));
    }
    for (Rank& rank : ranks) {
        float milliseconds = 0;
        CUDA(cudaEventSynchronize(rank.end));
        CUDA(cudaEventElapsedTime(&milliseconds, rank.start, rank.end));
        total += milliseconds / 1e3;
    }
    return total / size;
}

void measure(const std::string& operation, std::vector<Rank>& ranks, size_t bytes) {
    seconds(operation, ranks, bytes, kWarmUp);
    const double first = seconds(operation, ranks, bytes, 1);
    const int count = std::max(kLeast, std::min(kMost, static_cast<int>(kSecondsASize / first)));
    std::vector<double> batches;
    do {
        batches.push_back(seconds(operation, ranks, bytes, count) / count);
    } while (first < kShort && batches.size() < kShortBatches);
    std::sort(batches.begin(), batches.end());
    const double mean = batches[batches.size() / 2];
    std::printf("{\"operation\": \"%s\", \"size\": %zu, \"ranks\": %zu, \"seconds\": %.9g, \"repetitions\": %d}\n",
                operation.c_str(), bytes, ranks.size(), mean, count);
    std::fflush(stdout);
}

// The bytes that every GPU has free, less the reserve.
size_t free_memory(int gpus) {
    size_t least = SIZE_MAX;
    for (int i = 0; i < gpus; ++i) {
        size_t free = 0, total = 0;
        CUDA(cudaSetDevice(i));
        CUDA(cudaMemGetInfo(&free, &total));
        least = std::min(least, free > kReserve ? free - kReserve : 0);
    }
    return least;
}

void allocate(std::vector<Rank>& ranks, size_t bytes, bool two) {
    for (size_t i = 0; i < ranks.size(); ++i) {
        CUDA(cudaSetDevice(static_cast<int>(i)));
        CUDA(cudaMalloc(&ranks[i].buffer, bytes));
        CUDA(cudaMemset(ranks[i].buffer, 0, bytes));  // sums of zeros stay finite
        ranks[i].received = nullptr;
        if (two) {
            CUDA(cudaMalloc(&ranks[i].received, bytes));
            CUDA(cudaMemset(ranks[i].received, 0, bytes));
        }
        CUDA(cudaDeviceSynchronize());
    }
}

void release(std::vector<Rank>& ranks) {
    for (size_t i = 0; i < ranks.size(); ++i) {
        CUDA(cudaSetDevice(static_cast<int>(i)));
        CUDA(cudaFree(ranks[i].buffer));
        CUDA(cudaFree(ranks[i].received));
    }
}

int main(int argc, char** argv) {
    const size_t smallest = argc == 3 ? std::strtoull(argv[1], nullptr, 10) : 0;
    const size_t largest = argc == 3 ? std::strtoull(argv[2], nullptr, 10) : 0;
    if (smallest == 0 || largest < smallest) {
        std::fprintf(stderr, "usage: loop SMALLEST LARGEST, in bytes\n");
        return 2;
    }
    int gpus = 0;
    CUDA(cudaGetDeviceCount(&gpus));
    std::vector<ncclComm_t> comms(gpus);
    NCCL(ncclCommInitAll(comms.data(), gpus, nullptr));
    std::vector<Rank> ranks(gpus);
    for (int i = 0; i < gpus; ++i) {
        CUDA(cudaSetDevice(i));
        ranks[i].comm = comms[i];
        CUDA(cudaStreamCreateWithFlags(&ranks[i].stream, cudaStreamNonBlocking));
        CUDA(cudaEventCreate(&ranks[i].start));
        CUDA(cudaEventCreate(&ranks[i].end));
    }
    for (const std::string operation : kOperations) {
        const bool two = operation == "all_to_all";
        const size_t unit = is_whole(operation) ? kElement : kShardUnit * gpus;
        const size_t room = free_memory(gpus) / (two ? 2 : 1);
        std::vector<size_t> sizes;
        for (size_t size = smallest; size <= largest; size *= 2) {
            if (size >= unit && size / unit * unit <= room) sizes.push_back(size / unit * unit);
        }
        if (sizes.empty()) continue;
        allocate(ranks, sizes.back(), two);
        for (size_t size : sizes) measure(operation, ranks, size);
        release(ranks);
    }
    for (Rank& rank : ranks) NCCL(ncclCommDestroy(rank.comm));
    return 0;
}
