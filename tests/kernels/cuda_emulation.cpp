// Runs one launch of kernels/cuda/packed.cu as test_cuda_sources.py describes it in a file, and writes the output back.
//
//   emulation CASE SEED     CASE: eleven int64 (planes, tiles, align, grid, threads, shared bytes, sizes of the five
//                           buffers in bytes, -1 for none), the twelve numbers of `Product`, then the buffers.
#include "cuda_emulation.h"

#define CLISONIX_EMULATION

struct Words;
inline Words load_streaming(const unsigned char* address);
inline void multiply_add(int (&sum)[4], const unsigned int (&a)[4], unsigned int b0, unsigned int b1) {
    emulation::Fiber& self = emulation::fibers[emulation::current];
    self.operation = "multiply";
    self.argument = 0;
    for (int i = 0; i < 4; ++i) {
        self.sent[i] = a[i];
        self.sent[6 + i] = static_cast<uint32_t>(sum[i]);
    }
    self.sent[4] = b0;
    self.sent[5] = b1;
    emulation::meet(emulation::Wait::warp);
    for (int i = 0; i < 4; ++i) sum[i] = static_cast<int>(self.received[i]);
}

#include "packed.cu"

inline Words load_streaming(const unsigned char* address) {
    if (reinterpret_cast<uintptr_t>(address) % 16 != 0) emulation::fail("a 16-byte load is not aligned");
    return bits_as<Words>(address);
}

// Each number of planes, of tiles and each alignment at least once; more would only take longer to compile.
void run(const int64* shape, const Product& p) {
    unsigned char* shared = emulation::shared_bytes;
    switch (100 * shape[0] + 10 * shape[1] + (shape[2] == 16 ? 9 : shape[2])) {
        case 119: return packed_product_body<1, 1, 16>(p, shared);
        case 211: return packed_product_body<2, 1, 1>(p, shared);
#ifndef FEW_VARIANTS
        case 134: return packed_product_body<1, 3, 4>(p, shared);
        case 161: return packed_product_body<1, 6, 1>(p, shared);
        case 239: return packed_product_body<2, 3, 16>(p, shared);
        case 264: return packed_product_body<2, 6, 4>(p, shared);
#endif
        default: emulation::fail("this variant is not built");
    }
}

int main(int count, char** words) {
    if (count != 3) emulation::fail("give a case and a seed");
    std::FILE* file = std::fopen(words[1], "rb");
    if (!file) emulation::fail("the case cannot be read");
    int64 shape[11];
    Product p{};
    if (std::fread(shape, 8, 11, file) != 11) emulation::fail("the case is short");
    if (std::fread(&p.batch, 8, 12, file) != 12) emulation::fail("the case is short");
    // Exactly as large as the tensors are, so that the address sanitizer sees any access outside.
    unsigned char* buffers[5];
    for (int i = 0; i < 5; ++i) {
        const int64 size = shape[6 + i];
        buffers[i] = size < 0 ? nullptr : static_cast<unsigned char*>(std::malloc(static_cast<size_t>(size)));
        if (size > 0 && std::fread(buffers[i], 1, static_cast<size_t>(size), file) != static_cast<size_t>(size)) {
            emulation::fail("the case is short");
        }
    }
    std::fclose(file);
    p.x = buffers[0];
    p.column_scales = buffers[1];
    p.planes = buffers[2];
    p.row_scales = buffers[3];
    p.out = buffers[4];

    std::mt19937 random(static_cast<unsigned>(std::atoi(words[2])));
    blockDim.x = static_cast<unsigned>(shape[4]);
    emulation::fibers = new emulation::Fiber[blockDim.x];
    for (unsigned i = 0; i < blockDim.x; ++i) emulation::fibers[i].stack = new unsigned char[emulation::STACK_BYTES];
    emulation::body = [&] { run(shape, p); };
    std::vector<unsigned> blocks(static_cast<size_t>(shape[3]));
    for (unsigned i = 0; i < blocks.size(); ++i) blocks[i] = i;
    for (size_t i = blocks.size(); i > 1; --i) std::swap(blocks[i - 1], blocks[random() % i]);
    for (unsigned block : blocks) {
        blockIdx.x = block;
        emulation::run_block(blockDim.x, static_cast<size_t>(shape[5]), random);
    }
    file = std::fopen(words[1], "wb");
    if (!file) emulation::fail("the result cannot be written");
    std::fwrite(p.out, 1, static_cast<size_t>(shape[10]), file);
    std::fclose(file);
    for (unsigned char* buffer : buffers) std::free(buffer);
    for (unsigned i = 0; i < blockDim.x; ++i) delete[] emulation::fibers[i].stack;
    delete[] emulation::fibers;
    return 0;
}
