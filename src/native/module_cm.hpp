// Adds the context-mixing coder to the module.
#pragma once
#include <nanobind/nanobind.h>

namespace tersenet {

void bind_cm(nanobind::module_& m);

}  // namespace tersenet
