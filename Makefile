# `make demo` and `make test` do everything on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
# Predict photographs with the included network; then fine-tune its last block or only its head on synthetic
# scenes, and compare the two. This shows the commands; the scores on these scenes have no meaning.
TOY := --dataset synthetic --rows 240 --cols 320 --init_weights weights/mlnet-osie.weights.h5 --fixed_blocks 4 \
	--loss kld --optimizer adam --learning_rate 1e-4 --decay 0 --epochs 2 --precision mixed_bfloat16 \
	--weights_dir $(DEMO)/weights

.PHONY: demo weights pictures adapting test test-quick test-signals test-slow coverage fuzz lint lock licences audit pysaliency clean

# every package at the version and with the hash that the lock names
INSTALL := pip install --quiet --disable-pip-version-check --require-hashes

.venv/installed: requirements/dev.lock
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11')"
	$(PYTHON) -m venv .venv
	$(BIN)/$(INSTALL) -r $<
	touch $@

demo: .venv/installed
	$(BIN)/python examples/write_photographs.py $(DEMO)/photographs
	$(BIN)/python main.py test $(DEMO)/photographs --overlay --side_by_side --peaks 5 --overwrite --output $(DEMO)/predictions
	$(BIN)/python main.py train $(TOY) --strategies frozen finetuned --output $(DEMO)
	@echo "Look at $(DEMO)/predictions/ and $(DEMO)/comparison/index.html; python main.py demo is a page for pictures of your own."

# train the included weights again: make weights OSIE=PATH EYECROWD=PATH [VGG16=FILE]; hours on a CPU
weights: .venv/installed
	$(BIN)/python examples/train_weights.py "$(OSIE)" "$(EYECROWD)" $(if $(VGG16),--vgg16 "$(VGG16)")

# Draw the pictures of docs/: from its tables, from the example photographs, and of pages in Chromium. With
# OSIE=PATH also those that are made from OSIE, which take an hour on a CPU; with EYECROWD=PATH (and VGG16=FILE)
# also that of docs/ADAPTING.md, which takes another.
pictures: $(DEMO)/comparison/index.html
	$(BIN)/python examples/draw_what_helped.py docs/RESULTS.md docs/pictures/what_helped.png
	$(BIN)/python examples/draw_predictions.py docs/pictures/predictions.jpg
	$(BIN)/python examples/draw_pages.py docs/pictures --comparison $<
ifdef OSIE
	$(BIN)/python main.py probe --backbone vgg16 --dataset osie --data "$(OSIE)" --output $(DEMO)/probe
	cp $(DEMO)/probe/alignment.png docs/pictures/alignment.png
ifdef EYECROWD
	$(MAKE) adapting
endif
endif

# the networks of docs/RESULTS.md that were trained on one set, one of them adapted to the other
ADAPTING := runs/adapting
SETTINGS := --loss kld+cc+0.2*nss --optimizer adam --decay 0 --precision mixed_bfloat16 --rows 240 --cols 320 \
	--weights_dir $(ADAPTING)/weights --resume
HEAD := --freeze_backbone True --learning_rate 1e-3 --learning_rate_end 1e-4 --epochs 6 \
	$(if $(VGG16),--backbone_weights "$(VGG16)")
BLOCKS := --freeze_backbone False --fixed_blocks 3 --flip True --learning_rate 1e-4 --learning_rate_end 6.4e-5 --epochs 3
$(ADAPTING)/osie/done.json: DATA = $(OSIE)
$(ADAPTING)/eyecrowd/done.json: DATA = $(EYECROWD)

$(ADAPTING)/%/done.json: | .venv/installed
	$(BIN)/python main.py train $(SETTINGS) $(HEAD) --dataset $* --data "$(DATA)" --output $(ADAPTING)/$*-head
	$(BIN)/python main.py train $(SETTINGS) $(BLOCKS) --dataset $* --data "$(DATA)" --output $(ADAPTING)/$* \
		--init_weights $(ADAPTING)/$*-head/best.weights.h5

adapting: $(ADAPTING)/osie/done.json $(ADAPTING)/eyecrowd/done.json
	$(BIN)/python main.py adapt --dataset eyecrowd --data "$(EYECROWD)" --n 5 10 20 50 --draws 5 --overwrite \
		--weights $(ADAPTING)/osie/best.weights.h5 --reference $(ADAPTING)/eyecrowd/best.weights.h5 \
		--output $(ADAPTING)/adapted
	cp $(ADAPTING)/adapted/adapt.png docs/pictures/adapting.png

$(DEMO)/comparison/index.html: .venv/installed
	$(MAKE) demo

# what a test starts as a process of its own need not compile the program's files again
unexport PYTHONDONTWRITEBYTECODE

# a file's tests in one process, since they share what they have trained; in the order of tests/conftest.py
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder --durations 15 --durations-min 10

# two at a time: the lint, and then the signals, keep a core busy where a worker of the tests waits
test: .venv/installed
	$(MAKE) --no-print-directory -j 2 lint test-quick test-signals

test-quick: .venv/installed
	$(PYTEST) -n 2 -m "not slow and not signals"

# what signals its own process is apart: where something goes wrong then, a worker and all its tests are lost
test-signals: .venv/installed
	$(BIN)/python -m pytest -m "signals and not slow" tests/system/test_signals.py tests/prediction/test_video.py

# three at a time on two cores: one of them mostly waits for a queue, and begins first
test-slow: .venv/installed
	$(PYTEST) -n 3 -m slow

# lines and branches that the quick tests reach, by folder; COVERED=slow for the slow ones, too
coverage: .venv/installed
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist loadfile -m "not signals $(if $(COVERED),,and not slow)"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage json --quiet
	$(BIN)/python .ci/coverage_by_folder.py coverage.json

# 100,000 hostile files a reader: FUZZ_INPUTS=1000 for fewer, FUZZ_READERS="mat npy" for some
fuzz: .venv/installed
	$(BIN)/python -m pytest -n 2 -m slow -rA tests/whole/fuzz

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/shellcheck --external-sources batch/*.sh benchmarks/*.sh .ci/run .ci/pysaliency

AUDIT := .venv-audit/bin

.venv-audit/installed: requirements/audit.lock
	$(PYTHON) -m venv .venv-audit
	$(AUDIT)/$(INSTALL) -r $<
	touch $@

# After a change of requirements.txt or requirements/*.txt. What no line of those asks to change keeps
# its version; `make lock UPGRADE=--upgrade` takes the newest of all that they do not name.
LOCK := $(AUDIT)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-build --emit-build-options --custom-compile-command "make lock" $(UPGRADE)
# PyTorch's CPU builds are not on PyPI: where pip is told to look, or else at their own page
CPU_WHEELS ?= $(or $(PIP_FIND_LINKS),https://download.pytorch.org/whl/cpu/torch/)

lock: .venv-audit/installed
	$(LOCK) requirements.txt --output-file requirements/base.lock
	for part in dev engines backends audit; do \
		$(LOCK) requirements/$$part.txt --constraints requirements/base.lock \
			--find-links "$(CPU_WHEELS)" --output-file requirements/$$part.lock || exit; \
	done
	$(LOCK) requirements/demo.txt --constraints requirements/base.lock \
		--override .ci/overrides.txt --output-file requirements/demo.lock
	$(LOCK) requirements/dinov2.txt --constraints requirements/base.lock \
		--constraints requirements/demo.lock --output-file requirements/dinov2.lock

licences: .venv/installed
	$(BIN)/python .ci/licences.py

# a report: what it finds fails nothing
audit: .venv-audit/installed
	$(AUDIT)/python .ci/audit.py requirements/dev.lock requirements/engines.lock \
		requirements/backends.lock requirements/demo.lock requirements/dinov2.lock

# what PysaliencyModel needs, apart from the rest: requirements/pysaliency.txt says why
pysaliency: .venv-pysaliency/installed

.venv-pysaliency/installed: requirements/pysaliency.txt
	PYTHON="$(PYTHON)" .ci/pysaliency $< "$(CPU_WHEELS)"
	touch $@

clean:
	rm -rf .venv .venv-audit .venv-pysaliency runs/demo
