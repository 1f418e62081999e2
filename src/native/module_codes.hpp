// Adds bit packing and the context-mixing coder to the module.
#pragma once
#include <nanobind/nanobind.h>

namespace tersenet {

void bind_codes(nanobind::module_& m);

}  // namespace tersenet
