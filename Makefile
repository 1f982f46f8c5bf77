# `make demo` and `make test` do everything on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
# A thin network at a small size, from random weights: minutes on a laptop, no download. It shows the
# commands; its scores mean nothing. With ImageNet weights at hand leave out --width and --backbone_weights.
TOY := --dataset synthetic --rows 120 --cols 160 --loss kld --optimizer adam --epochs 6 \
	--weights_dir $(DEMO)/weights --width 0.25 --backbone_weights none

.PHONY: demo test test-slow lint clean

.venv/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11')"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: .venv/installed
	$(BIN)/python main.py train $(TOY) --strategies frozen finetuned --output $(DEMO)
	$(BIN)/python examples/write_pictures.py $(DEMO)/pictures
	$(BIN)/python main.py test $(DEMO)/pictures --overlay --weights_dir $(DEMO)/weights \
		--output $(DEMO)/predictions
	$(BIN)/python main.py evaluate --dataset synthetic --weights_dir $(DEMO)/weights \
		--metrics cc,nss,auc_judd --output $(DEMO)/evaluation
	@echo "Look at $(DEMO)/comparison/index.html, $(DEMO)/finetuned-seed0/examples.png and $(DEMO)/predictions/."

# two at a time, a file's tests in one process, since they share what they have trained
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

test: .venv/installed lint
	$(PYTEST)

test-slow: .venv/installed
	$(PYTEST) -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/shellcheck --external-sources batch/*.sh .ci/run

clean:
	rm -rf .venv runs/demo
