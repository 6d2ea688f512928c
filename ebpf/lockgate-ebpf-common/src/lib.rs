//! Kernel ABI shared by the eBPF programs and lockgate-intercept
