// the prefix in saved states: one section in front of the cells that upstream writes (llama_state_*, llama_state_seq_*)

#include "ckv-cache.h"

#include "llama-io.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <stdexcept>

static constexpr uint32_t CKV_STATE_MAGIC   = 0x564b4343; // "CCKV"
static constexpr uint32_t CKV_STATE_VERSION = 1;

template <typename T>
static void ckv_write(llama_io_write_i & io, const T & value) {
    io.write(&value, sizeof(T));
}

template <typename T>
static T ckv_read(llama_io_read_i & io) {
    T res;
    io.read(&res, sizeof(T));
    return res;
}

// a field that must be as in this context
template <typename T>
static void ckv_expect(llama_io_read_i & io, const T & value, const char * what) {
    if (ckv_read<T>(io) != value) {
        throw std::runtime_error(std::string("the state does not fit this compressed KV cache: ") + what);
    }
}

void llama_ckv::state_write(llama_io_write_i & io) const {
    ckv_write(io, CKV_STATE_MAGIC);
    ckv_write(io, CKV_STATE_VERSION);
    ckv_write(io, settings.window);
    ckv_write(io, (uint32_t) layers.size());
    ckv_write(io, pos_frozen);
    ckv_write(io, n_used());

    io.write(ring_pos.data(), ring_pos.size()*sizeof(llama_pos));

    for (size_t i = 0; i < layers.size(); ++i) {
        const auto & prefix = layers[i].prefix;

        ckv_write(io, (uint32_t) prefix.size());
        ckv_write(io, (uint64_t) tensor_k(i)->nb[1]);
        ckv_write(io, (uint64_t) tensor_v(i)->nb[1]);
        io.write(prefix.data(), prefix.size()*sizeof(llama_pos));

        io.write_tensor(tensor_k(i), 0, prefix.size()*tensor_k(i)->nb[1]);
        io.write_tensor(tensor_v(i), 0, prefix.size()*tensor_v(i)->nb[1]);
        io.write_tensor(layers[i].q, 0, ggml_nbytes(layers[i].q));
    }
}

static std::vector<llama_pos> ckv_read_positions(llama_io_read_i & io, uint32_t n) {
    std::vector<llama_pos> res(n);
    io.read(res.data(), n*sizeof(llama_pos));
    return res;
}

void llama_ckv::state_read(llama_io_read_i & io) {
    ckv_expect(io, CKV_STATE_MAGIC,   "it was saved without a profile");
    ckv_expect(io, CKV_STATE_VERSION, "it was saved by another version");
    ckv_expect(io, settings.window,   "another observation window");
    ckv_expect(io, (uint32_t) layers.size(), "another number of layers");

    const auto frozen = ckv_read<llama_pos>(io);
    const auto n_live = ckv_read<uint32_t>(io);
    const auto ring   = ckv_read_positions(io, settings.window);

    if (frozen < 0 || frozen > (llama_pos) n_ctx || n_live > n_ctx) {
        throw std::runtime_error("the state holds more tokens than n_ctx = " + std::to_string(n_ctx) + ": create the context with a larger n_ctx");
    }

    const uint32_t n_tail_new = std::max<uint32_t>(settings.n_tail, std::min<uint32_t>(GGML_PAD(n_live, 256), n_ctx));

    clear(n_tail_new);

    for (size_t i = 0; i < layers.size(); ++i) {
        const auto n_prefix = ckv_read<uint32_t>(io);
        if (n_prefix > (uint32_t) frozen) {
            throw std::runtime_error("the state is damaged: a layer keeps more tokens than there were");
        }
        ckv_expect(io, (uint64_t) tensor_k(i)->nb[1], "another type_k");
        ckv_expect(io, (uint64_t) tensor_v(i)->nb[1], "another type_v");

        const auto prefix = ckv_read_positions(io, n_prefix);

        ckv_store store;
        if (!alloc(i, n_prefix + n_tail_new, store)) {
            throw std::runtime_error("no memory for the KV cache of the state");
        }
        install(i, store);
        layers[i].prefix = prefix;

        // upstream may copy the bytes later: the tensors are in place by then
        io.read_tensor(tensor_k(i), 0, n_prefix*tensor_k(i)->nb[1]);
        io.read_tensor(tensor_v(i), 0, n_prefix*tensor_v(i)->nb[1]);
        io.read_tensor(layers[i].q, 0, ggml_nbytes(layers[i].q));
    }

    resize_cells({}, n_tail_new);
    place_tails(n_tail_new);

    pos_frozen = frozen;
    ring_pos   = ring;
}

void ckv_state_write(const llama_ckv * ckv, llama_io_write_i & io) {
    if (ckv) {
        ckv->state_write(io);
    }
}

ckv_restore::ckv_restore(llama_ckv * ckv, llama_io_read_i & io) : ckv(ckv) {
    if (!ckv) {
        return;
    }

    try {
        ckv->state_read(io);
    } catch (...) {
        ckv->clear(ckv->n_tail()); // empty, as upstream leaves a cache after a failed restore
        throw;
    }
    ckv->restoring = true;
}

ckv_restore::~ckv_restore() {
    if (!ckv) {
        return;
    }

    ckv->restoring = false;
    if (ckv->n_used() == 0 && std::uncaught_exceptions() > 0) {
        ckv->reset();
    }
}
