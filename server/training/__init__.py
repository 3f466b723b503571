"""Training: files, jobs as rows, graders, and the worker that trains. states < files < jobs < graders < worker."""
