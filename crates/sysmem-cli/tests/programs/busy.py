# Threads, fork, multiprocessing, subprocesses and big data in one Python program. Prints the same
# on every run.
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import zlib


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def thread_work(number, results):
    words = {f"{number}-{i}": [i] * (i % 50) for i in range(20000)}
    results[number] = digest(json.dumps(words, sort_keys=True))


def pool_work(number):
    data = bytes(i * number % 251 for i in range(200000))
    return digest(zlib.compress(data).hex())


def main():
    results = {}
    threads = [threading.Thread(target=thread_work, args=(n, results)) for n in range(8)]
    for thread in threads:
        thread.start()
    # Fork while threads allocate.
    for number in range(10):
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            inner = [str(i) * 3 for i in range(10000)]
            os._exit(len(inner) % 7 + number)
        _, status = os.waitpid(pid, 0)
        print("fork", number, os.waitstatus_to_exitcode(status))
    for thread in threads:
        thread.join()
    print("threads", [results[n] for n in range(8)])
    with multiprocessing.Pool(4) as pool:
        print("pool", pool.map(pool_work, range(16)))
    out = subprocess.run([sys.executable, "-c", "print(sum(range(10**6)))"], capture_output=True)
    print("subprocess", out.stdout, out.returncode)
    lists = [[str(i)] * 10 for i in range(200000)]
    print("lists", digest("".join(inner[0] for inner in lists)))
    del lists
    print("bytes", len(bytearray(200 << 20)))


if __name__ == "__main__":
    main()
    sys.exit(6)
