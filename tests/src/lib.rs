//! End-to-end tests on real servers, clients and kernel hooks
