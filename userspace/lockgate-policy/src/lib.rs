//! The policy language: compile, evaluate, explain, approve, permit
