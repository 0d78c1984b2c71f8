// a flag that ends a decode: set by one thread, asked by those that compute

#include "core/stop.h"

#include "api/api.h"

#include <new>

llama_ckv_stop * llama_ckv_stop_new(void) {
    return new (std::nothrow) llama_ckv_stop;
}

void llama_ckv_stop_free(llama_ckv_stop * stop) {
    delete stop;
}

void llama_ckv_stop_set(llama_ckv_stop * stop, bool wanted) {
    stop->wanted = wanted;
}

bool llama_ckv_stop_wanted(void * stop) {
    return static_cast<llama_ckv_stop *>(stop)->wanted;
}
