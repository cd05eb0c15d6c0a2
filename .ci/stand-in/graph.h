// CUDA graphs: work that is recorded and replayed.
#pragma once
#include <cstddef>
#include <functional>
#include <vector>

struct Graph {
    std::vector<std::function<void()>> nodes;
};

// Memory that a graph allocates, at the same place in each replay.
struct GraphMemory {
    Graph* graph;
    size_t bytes;
    // Whether a replay, or the program after it, freed this memory.
    bool freed;
};
