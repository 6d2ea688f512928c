//! Kernel side: loading the eBPF programs, capture, attribution
